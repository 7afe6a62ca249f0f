"""A small world that needs no download: scenes of coloured shapes, and fifteen languages to speak of them.

``scene`` draws a meaning and renders its picture; ``languages`` reads what a language needs (a file each in
``language_files``), ``grammar`` says a scene in it and parses what was said, ``instructions`` asks and answers, and
``rows`` writes the row files of a run.
Because the same grammar generates and parses, an answer about a scene is judged exactly, without a model.

May import ``data``; every later room may import it.
To add a language, add a file to ``language_files``.
Notebook: ``01_prepare_data``.
"""
