"""Data sets to row files: what is read from a hub or a folder, checked, mixed and written.

Every later room reads the Parquet files whose form stands in ``rows``: conversations, pictures, requests.
``hub`` is the one door for names of models and data sets, ``codes`` the one table of language codes, ``images`` the
one place where a picture of somebody else is opened.
``mixture`` decides how many text rows of which language an arm is tuned on, and in which order; ``prepare`` writes all
files of a run at hub scale, from the readers ``sources``, ``pictures``, ``crossmodal`` and ``questions``.

Imports nothing of the package but its ground floor; every room may import it.
Notebook: ``01_prepare_data``; the order of an arm's rows is shown in ``03_tune``.
"""
