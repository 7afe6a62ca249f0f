"""The second scale: a language model, a tower, drawings and words that nobody made for this experiment.

``gather`` takes them from ordinary packages and makes a folder of the form that ``folder`` documents; any folder of
that form will do.  ``splits`` says which concept may be shown, told or asked, ``rows`` writes the row files of a run,
``dictionary`` says in which language an answer is and whether it is right.  ``tower`` is the vision encoder,
``vocabulary`` cuts a tokenizer and its model to the languages used, ``backbone`` makes the instructed language model.

May import ``data``; every later room may import it.
Notebooks: ``01_prepare_data``, ``05_evaluate``.  Commands: ``textreg data pictures``, ``textreg data backbone``.
"""
