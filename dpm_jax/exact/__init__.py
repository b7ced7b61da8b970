"""What is known in closed form or by quadrature: ceilings of K, log p and posteriors of toy data.

* swiss_roll  the noised density of the roll, its entropy, its posteriors on a grid
* heartbeat   Bayes' rule over the five sequences: entropies, the best factorised kernel, posteriors
* mixture     25 Gaussian modes under random linear measurements: denoiser, posterior, evidence
"""
