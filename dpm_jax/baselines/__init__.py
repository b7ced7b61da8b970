"""Densities to set beside K: how much of K − L_null is more than second moments give.

All are normalised densities of whole images, to be compared with a diffusion model at a variance v
of the noise, on x√(1−v) + √v ε of the same test images, fitted to training images so noised. Nats;
nothing here needs a network of the diffusion.

* blocks  Gaussians: independent pixels (L_null), and square blocks with a full covariance
* causal  a product of conditionals in raster order, each a linear prediction and a scale mixture
* mcgsm   the same with mixtures of conditional Gaussian scale mixtures, as in Table 2
* parzen  Parzen windows on samples of a model, as in Table 2
* checks  what they ask of images

* inverse  DPS, DDRM and MCGdiff, to set beside posteriors of linear measurements
"""
