"""For models of your own that answer over a wire, and for answers that are in a file already.

``probes`` makes the requests (scenes, a folder of pictures, Crossmodal-3600), ``endpoint`` asks a served model,
``answers`` reads a file of answers part by part, ``written`` makes them ready to be annotated, ``score`` makes its
tables (``paired``: what answers to the same item say beyond rates), ``report`` prints them.

May import ``fidelity``, ``scenes`` and ``data``; nothing of the notebooks' chain needs this room.
Commands: ``textreg score``, ``textreg evaluate``.
"""
