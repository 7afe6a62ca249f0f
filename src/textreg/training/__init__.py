"""Training: rows to batches, the loss on the words of the answer, and steps that survive a kill.

``batches`` turns rows into token ids and decides which positions are scored, ``learner`` is the model as it is trained
(frozen features in, loss out), ``train`` runs the Trainer, ``checkpoints`` goes on after a kill, ``probing`` finds the
batch that fits into memory.

May import ``vlm`` and what lies below it; knows nothing of stages and runs: it gets settings and tables.
Notebooks: ``02_align`` (the projector), ``03_tune`` (LoRA on the language model).
"""
