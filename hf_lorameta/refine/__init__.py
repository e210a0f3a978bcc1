"""Fit of coefficients on a few of the user's rows; no weight of the model or an adapter changes.

A plan's coefficients c are the starting point. The loss of rows under ``ΔW = Σ c_i s_i B_i A_i``
has the gradient ``∂L/∂c_i = s_i ⟨∂L/∂ΔW, B_i A_i⟩`` in each module, so one backward pass gives the
gradients for all adapters while the bank is read module by module. These gradients are separate
for each module, so each module may have its own coefficients, as in layer-wise AdaMerging [1].
Cross-validation decides how much modules may differ and which part of the step is taken.

`fit` holds the fit, `surrogate` the model of the loss that it minimizes, `directions` its
coordinates, `shrink` the comparison with the base model, and `results` the reports.

References:
    [1] Yang et al., AdaMerging: Adaptive Model Merging for Multi-Task Learning, arXiv 2310.02575.
"""
