"""Values of flags that presets of several experiments share: data, to be read without a binary."""

from dpm_jax.runs.flags import Flag

FILLS = "accelerator"  # name of the preset that is made to fill a GPU or TPU
FEWEST_PATCHES = 1000  # a block of 8×8 colours has a covariance of 192×192
NONLINEARITIES = ("softplus", "leaky_relu")  # as the networks have them
MIXING = ("middle", "coarse", "all")

IMAGES = {
    "T": 1000,
    "beta_1": 6e-5,
    "schedule": "geometric",
    "final_ratio": 333.0,
    "network": "multiscale_conv",
    "width": 32,
    "depth": 4,
    "scales": 4,
    "nonlinearity": "softplus",
    "film": False,
    "bottleneck": 0,
    "mixing": "middle",
    "pointwise": 2,
    "bumps": "auto",
    "readout": "eq65",
    "variance": "eq64",
    "num_steps": 5000,
    "batch_size": 16,
    "learning_rate": 2e-3,
    "warmup": 100,
    "num_t": -1,
    "bfloat16": False,
    "log_every": 25,
    "checkpoint_every": 500,
    "sample_steps": 250,
    "num_samples": 64,
    "num_eval": 1000,
    "passes": 8,
    "baselines": "dct,blocks",
    "baseline_patches": 20_000,
    "data_dir": "",
    "manual_dir": "",
}
IMAGES_BEST = {
    "nonlinearity": "leaky_relu",
    "film": True,
    "pointwise": 0,
    "readout": "skip",
    "optimizer": "muon",
    "weight_decay": 0.2,
    "batch_size": 32,
}
# What fills one accelerator: 63 % of the bfloat16 peak of an H200 (BUILD_NOTES.md).
ACCELERATOR = {
    "width": 256,
    "depth": 6,
    "batch_size": 512,
    "bfloat16": True,
    "num_steps": 19_000,
    "log_every": 200,
    "checkpoint_every": 2000,
}
LEVELS = {
    "levels": Flag(
        int,
        "Values that a pixel can take, such as 4096 for 12 bits in files of 16; 0: all that their"
        " type has.",
        values="[0, 65536]",
    ),
}
MEMORY = {
    "memory_gib": Flag(
        float,
        "Of a larger training set each step reads its images from disk.",
        values="[0, inf)",
    ),
}
IMAGE_HELPS = {
    "baselines": Flag(
        str,
        "Densities beside K in the noise-floor curve, a list of dct, blocks (8×8), causal (scale"
        " mixture) and mcgsm (a minute of one core a noise, for grey), or nothing.",
    ),
    "baseline_patches": Flag(
        int,
        "Training patches that they are fitted on; as many pixels where these are larger than"
        " 32×32.",
        values=f"[{FEWEST_PATCHES}, inf)",
        bytes=256,
    ),
    "final_ratio": Flag(float, "(1−ᾱ_T)/ᾱ_T of the geometric schedule.", values="(0, inf)"),
    "scales": Flag(
        int,
        "Scales 2^k of the multi-scale layers; the image's sides must divide by the largest.",
        values="[1, 16]",
    ),
    "nonlinearity": Flag(
        str,
        "Of the multi-scale layers: softplus (the paper) or leaky_relu (its code).",
        values=NONLINEARITIES,
    ),
    "film": Flag(
        bool, "Scale and shift each channel of the multi-scale layers by the log-SNR (FiLM)."
    ),
    "bottleneck": Flag(
        int,
        "Units of the unet's dense layer over the whole image; 0: fully convolutional.",
        values="[0, inf)",
        bytes=16,
    ),
    "mixing": Flag(
        str,
        "Where that layer stands: in the middle, after every coarse block, or after every block.",
        values=MIXING,
    ),
    "pointwise": Flag(
        int, "1×1 tanh layers of multiscale_conv before its readout.", values="[0, 100]"
    ),
    "bumps": Flag(
        str,
        "What the bumps of multiscale_conv are functions of: t (the paper) or log_snr; auto: t with"
        " the readout eq65, else log_snr.",
        values=("auto", "t", "log_snr"),
    ),
    "bfloat16": Flag(
        bool, "Compute inside the network in bfloat16; K, schedule and loss stay in float32."
    ),
    "sample_steps": Flag(
        int, "Steps of the samples, at most T: the chain is respaced to them.", values="[2, inf)"
    ),
    "num_samples": Flag(int, "Samples drawn for the figure.", values="[1, inf)", bytes=64),
    "passes": Flag(
        int, "Stratified draws of t for each example of the final K.", values="[1, inf)", bytes=64
    ),
}
