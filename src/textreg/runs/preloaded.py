"""What every notebook loads, loaded once: imported by the process of which the children of a run are forks.

Loading takes five seconds of a processor, a fork takes hundredths.  Nothing of this package is among it: a child
loads that itself, so that what runs is what its identity was computed from.  Drawings go where those of a notebook
go, which matplotlib decides when it is loaded.
"""
# ruff: noqa: F401

import os

os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")

import accelerate
import ipykernel.ipkernel
import ipykernel.kernelapp
import matplotlib.pyplot
import matplotlib_inline.backend_inline
import nbclient
import pandas
import papermill.clientwrap
import peft
import pyarrow.parquet
import scipy.stats
import seaborn
import sklearn.linear_model
import torch
import transformers.models.llama.modeling_llama
import transformers.models.llava.modeling_llava
import transformers.models.siglip.modeling_siglip
import transformers.trainer
