"""The two small models the package ships, and how they were made: a Llama and a SigLIP tower, trained on scenes.

``llm`` and ``tower`` are the pre-trainings, ``assets`` the shipped checkpoints in ``weights`` with a manifest that
says what they were made with and lets a damaged one be told.
The language model stands for a backbone that knows many languages before it ever sees a picture.

May import ``scenes`` and ``data``.
Notebook: ``00_backbone``, which is not part of a normal run, because its product is shipped.
"""
