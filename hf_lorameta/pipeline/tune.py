"""Fit a plan's coefficients on a few labeled rows, and check a finished adapter on others."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from hf_lorameta.bank.weighted_sum import WeightedSum
from hf_lorameta.engines.interfaces import BaseModelRunner
from hf_lorameta.errors import UsageError
from hf_lorameta.pipeline.generation import Generation
from hf_lorameta.pipeline.held_out_rows import rows_to_check, rows_to_fit
from hf_lorameta.pipeline.plan import Plan
from hf_lorameta.refine.registry import REFINERS
from hf_lorameta.refine.shrink import validate
from hf_lorameta.types import Array, FloatArray, Row
