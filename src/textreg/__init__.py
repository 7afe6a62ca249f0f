"""Language fidelity of vision-language models: measure it, lose it, restore it.

The package under the book that reproduces *Breaking Language Barriers in Visual Language Models via
Multilingual Textual Regularization* (arXiv 2503.22577).  Nothing is imported here, so that
``textreg --help`` and a worker process start at once; import the module you need.
"""

__version__ = "0.1.0"
