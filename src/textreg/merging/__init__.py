"""Merging checkpoints of any size: a tuned model and its backbone, tensor by tensor, in bounded memory.

``tree`` finds the language model in a tree of modules, ``plan`` decides what happens to which tensor, ``methods`` is
the arithmetic, ``tensors`` reads and writes safetensors without a tensor library, ``weights`` finds the tuned ones (a
checkpoint, or a LoRA adapter), ``merge`` streams it all, ``reload`` asks the class what it would miss, ``report`` says
what changed.

May import ``data`` and the names of tensors in ``vlm``; the notebooks' own merge is adapter scaling in ``vlm`` and
needs nothing of this room.
Command: ``textreg merge``.
"""
