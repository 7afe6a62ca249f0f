"""A vision-language model: put together, asked, adapted, written out.

``assembly`` joins a tower, a projector and a language model into a LLaVA, ``loading`` reads the parts, ``chat`` makes
prompts of turns, ``features`` keeps what the frozen tower sees, ``generation`` answers, ``adapters`` holds LoRA and
the dial lambda, ``layouts`` the names that tensors have in the families of models.
``systems`` says what ``TR+M`` of a run is and opens it; ``export`` writes a folder that transformers and vLLM load,
and ``card`` the text beside it.

May import ``micro``, ``scenes`` and ``data``, not ``fidelity``: a model does not know how it is scored.
Notebooks: ``02_align``, ``03_tune``, ``04_merge``.
"""
