"""Images: a Gaussian law of them and the linear skip it makes, and grey levels as densities.

* dequantisation  grey levels to a density and back
* law             the Gaussian law: fit, density
* kernel          its Wiener filter, and the reverse kernel with a network on top
* resize          the law at another size
* dct             images as coefficients
* seam            how well a filled square sits in its photograph
"""
