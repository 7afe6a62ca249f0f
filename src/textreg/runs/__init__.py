"""Runs: which notebooks, in which order, with which settings, and whether what they left still stands.

``profiles`` reads a YAML file, ``stages`` says what depends on what, ``plan`` compares each unit with its manifest
(``identity``, ``fingerprint``, ``manifest``), ``runner`` executes what is missing, each notebook in a process of its
own (``children``, ``execution``, ``kernel``, ``notebooks``), ``report`` tells.  ``budget`` estimates a run before it
starts, from the ``sizes`` of models,
``parallel`` tunes an arm on several GPUs, ``shipping`` renews the shipped results.
``study`` reads a table of many runs, ``study_run`` has Snakemake make them, ``study_unit`` one unit at a time,
``study_table`` tells what they found.

May import every room but ``book``; no other room but ``book`` imports it, so that everything works without it.
Commands: ``textreg run``, ``textreg status``, ``textreg study``.
"""
