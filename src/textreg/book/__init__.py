"""The book: pages, tables and claims made from result files, and the build around them.

``build`` puts sources, executed notebooks and made pages together and calls Jupyter Book, ``pages`` makes what is
included, ``outcome`` words what came out; claims are judged in :mod:`textreg.evaluation.claims`.

May import every room; nothing imports it but the command.
Commands: ``make book``, ``python -m textreg.book.build.build``.
"""
