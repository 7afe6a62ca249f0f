"""Drawings: a table goes in, a figure with an alternative text comes out.

``tables`` reads the result files and reduces them to what is drawn, ``style`` holds colours, marks, sizes and the one
way to save, the other modules draw; ``book`` is the list of the book's figures with their words, ``score_tables`` and
``published`` are the tables that ``05_evaluate`` shows.

May import any room below, and nothing computes with it: what is drawn never decides whether weights are stale, and no
room but ``runs`` and ``book`` may import it.
Notebooks: ``06_figures``, ``07_mechanism``; the loss curves of ``00_backbone``, ``02_align`` and ``03_tune``.
"""
