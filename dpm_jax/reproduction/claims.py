"""What the paper says: Table 1, Table 2, its figures and its own setting. Data only.

Sohl-Dickstein, Weiss, Maheswaranathan and Ganguli 2015, arXiv 1503.03585. Numbers are as printed.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

PAPER = (
    "Sohl-Dickstein, Weiss, Maheswaranathan and Ganguli, “Deep Unsupervised Learning using"
    " Nonequilibrium Thermodynamics”, ICML 2015, arXiv 1503.03585"
)
PRESETS = ("paper", "best")  # that each row and figure has
UNSAID = "not stated"


class Number(NamedTuple):
    """A number as the paper prints it."""

    text: str
    error: str = ""

    def __str__(self) -> str:
        shown = self.text.replace("-", "−")
        return f"{shown} ± {self.error}" if self.error else shown


class Bound(NamedTuple):
    """A row of Table 1: K on held-out data, and how far it is above π(x^0)."""

    experiment: str
    title: str
    unit: str
    K: Number | None
    gain: Number | None  # K − L_null
    setting: str  # what the paper says of its own
    caveat: str  # what cannot be compared, and why
    beta_1: str = UNSAID
    noise: str = UNSAID
    last_step: str = "fixed"


class Beyond(NamedTuple):
    """A log probability that the paper does not have and others report; runs by their flags."""

    experiment: str
    title: str
    unit: str  # of minus that, lower is better: nats/image or bits/dim
    flags: Mapping[str, Any]  # that its runs have, and the experiment's other runs have not
    data: str  # of ours, of their flags
    says: str
    figures: tuple[tuple[str, str], ...] = ()  # name in report.json of a run, and words for it


class Score(NamedTuple):
    """A row of Table 2."""

    name: str
    value: Number


class Figure(NamedTuple):
    """A figure, in words of our own: what the paper's shows."""

    number: str
    experiment: str
    name: str  # in report.json of a run
    title: str
    shows: str
    differs: str  # of ours
    measured: tuple[tuple[str, str], ...] = ()  # name in report.json, and words for it


TABLE_1 = (
    Bound(
        "swiss_roll",
        "Swiss roll",
        "bits",
        Number("2.35"),
        Number("6.45"),
        "T = 40; normalised RBF network with one hidden layer of 16 units, shared by all t and by"
        " both functions, a linear readout for each t; β_2..β_T learned, β_1 a small constant.",
        "The paper states neither the noise of its roll nor β_1, and any K of a curve in the plane"
        " depends on both: the ceiling −h(X_1) is what no model can pass in our setting. The"
        " setting with β_1 = 3e-6 is there because a K of 2.35 is possible at that β_1.",
    ),
    Bound(
        "heartbeat",
        "Binary heartbeat",
        "bits/sequence",
        Number("-2.414"),
        Number("12.024"),
        "20 bits with a 1 in every 5th bin, uniform phase; ρ = 0.2; T = 2000; perceptron"
        " 20-50-50-50 of sigmoid units shared by all t, a readout for each t; β_t = 1/(T − t + 1).",
        "The same data and the same law: compare freely. The truth is log2(1/5) = −2.322"
        " bits/sequence; the ceiling is K of the best factorised kernel (Bayes' rule over the five"
        " sequences) on the draws of ours, so that it differs a little from seed to seed.",
        beta_1="1/T",
        noise="none: bits",
    ),
    Bound(
        "bark",
        "Bark",
        "bits/pixel",
        Number("-0.55"),
        Number("1.5"),
        "T = 500; bark textures of the UIUC database (Lazebnik et al. 2005), scaled by one"
        " constant to variance 1; multi-scale convolutions with bumps in t.",
        "The paper states neither which photographs were held out, nor the size of its crops, nor"
        " noise and β_1. Ours: T01–T04 of the same database, whole files held out.",
    ),
    Bound(
        "dead_leaves",
        "Dead leaves",
        "bits/pixel",
        Number("1.489"),
        Number("3.536"),
        "T = 1000; trained and tested on the images of Theis, Hosseini and Bethge 2012;"
        " multi-scale convolutions with bumps in t.",
        "Those images are not public and their noise is not stated; ours are drawn from the"
        " dead-leaves process (radii r^−3 on [2, 256], uniform greys). Flat regions have no"
        " density, so K means something beside its noise alone: Table 2 has one for each.",
    ),
    Bound(
        "cifar10",
        "CIFAR-10",
        "bits/pixel (a pixel is three colours)",
        Number("5.4", "0.2"),
        Number("11.5", "0.2"),
        "T = 1000; uniform noise against the 8-bit levels, then one constant to variance 1;"
        " multi-scale convolutions and a dense pathway over the whole image, bumps in t.",
        "β_1 is not stated, and K rises as it falls: the noise column tells ours in grey levels."
        " 5.4 bits/pixel are 4.20 bits/dim of the 8-bit images (lower is better), not the “5.40”"
        " that later papers quote.",
    ),
    Bound(
        "mnist",
        "MNIST",
        "bits/pixel",
        None,
        None,
        "T = 1000; a dense tanh network over the whole image, bumps in t.",
        "The paper has no K for MNIST, only Parzen windows (Table 2) and samples (Figure App.1).",
    ),
)

BEYOND = (
    Beyond(
        "binary_mnist",
        "Binarised MNIST",
        "nats/image",
        {},
        "trained on {binarise} bits, tested on a fixed draw",
        "The binomial column of Table App.1 on 28×28 bits. A pixel is 1 with probability level/255:"
        " fixed, one draw for all time, or dynamic, a new one whenever an image is trained on. Our"
        " fixed draw has the law of the file that the literature takes, and is not that file.",
        (("samples", "Samples"), ("bound_terms", "KL by t")),
    ),
    Beyond(
        "cifar10",
        "CIFAR-10, lossless",
        "bits/dim",
        {"last_step": "discretized"},
        "8-bit integers, {dataset}",
        "The last step gives integers a probability, so that K is a code length of the file itself:"
        " no dequantisation, and β_1 is no longer the noise of the data but a choice. It stands"
        " beside lossless codes; K of Table 1, a density, does not.",
    ),
)

LEAVES = (Score("MCGSM", Number("1.244")), Score("diffusion", Number("1.489")))  # bits/pixel
PARZEN = (  # bits
    Score("stacked CAE", Number("174", "2.3")),
    Score("DBN", Number("199", "2.9")),
    Score("deep GSN", Number("309", "1.6")),
    Score("diffusion", Number("317", "2.7")),
    Score("adversarial net", Number("325", "2.9")),
    Score("perfect model", Number("349", "3.3")),
)

FIGURES = (
    Figure(
        "1",
        "swiss_roll",
        "figure1",
        "Swiss roll",
        "three rows at t = 0, T/2 and T. Top: the data diffuse forward from the roll into a"
        " Gaussian of covariance 1. Middle: the learned reverse trajectory takes a Gaussian back to"
        " the roll, whose samples can hardly be told from the data. Bottom: the drift"
        " f_μ(x, t) − x, arrows that point onto the roll at small t and vanish at T.",
        "the arrows have equal length, and their colour is the size of the drift.",
    ),
    Figure(
        "2",
        "heartbeat",
        "figure2",
        "Binary heartbeat",
        "one sequence a row: on the right independent bits at rate 0.2, where sampling starts; on"
        " the left the samples, a pulse in every 5th bin, identical to training data. All are"
        " shifted so that the first pulse lies in the first column.",
        "it begins with data and runs from T on the left to samples on the right, unshifted: the"
        " five phases are seen.",
        (("valid_samples", "Of its samples {:.2%} are one of the five sequences."),),
    ),
    Figure(
        "3",
        "cifar10",
        "figure3",
        "CIFAR-10",
        "(a) held-out images; (b) the same with Gaussian noise of variance 1 (signal and noise are"
        " equal); (c) denoised by a draw of the posterior given (b): plausible colours and"
        " outlines, details of the model's own; (d) samples: smooth and coloured, object-like"
        " without being objects.",
        "the same four columns.",
        (
            ("figure3_rmse_noised", "Root of the mean squared error of (b): {:.3f};"),
            ("figure3_rmse_denoised", "of (c): {:.3f}."),
        ),
    ),
    Figure(
        "4",
        "dead_leaves",
        "figure4",
        "Dead leaves",
        "(a) a training image; (b) a sample of MCGSM (Theis et al. 2012), without edges that close;"
        " (c) a sample of the diffusion model, 256×256: consistent occlusion, many sizes, and round"
        " objects, above all small ones.",
        "(b) is of our own fit of MCGSM, at the least noise that all models are compared at.",
    ),
    Figure(
        "5",
        "bark",
        "figure5",
        "Bark, inpainted",
        "(a) a photograph of bark; (b) its central 100×100 pixels replaced by Gaussian noise; (c)"
        " inpainted by a draw of the posterior, r a delta on the known pixels and constant on the"
        " others: texture goes on across the border, and a crack that enters from the left runs"
        " through.",
        "up to four held-out photographs; beside the paper's way ours, for two seeds: the network"
        " goes on learning from the known part of the photograph, then replacement with jumps"
        " (RePaint). A square is among intact ones where four measures of seam and texture say so.",
        (
            ("figure5_within_photograph", "Squares among intact ones: the photographs {},"),
            ("figure5_within_paper", "the paper's way {},"),
            ("figure5_within_ours", "ours {}"),
            ("figure5_within_ours_again", "and {}."),
            ("figure5_sd_inside_photograph", "Standard deviation inside: photographs {:.2f},"),
            ("figure5_sd_inside_paper", "the paper's way {:.2f},"),
            ("figure5_sd_inside_ours", "ours {:.2f}."),
        ),
    ),
    Figure(
        "App.1",
        "mnist",
        "figure_app1",
        "MNIST",
        "a grid of samples: legible digits with some grain, true samples and not means of a last"
        " step.",
        "true samples too, the first hundred of all drawn.",
        (("samples", "Drawn: {:,},"), ("non_finite_samples", "of them not finite: {}.")),
    ),
)

GLOSSARY = (
    ("K", "lower bound on the mean log likelihood of held-out data (eq. 14), in bits; higher is"
     " better. Of real-valued data it is a density of data scaled to variance 1."),
    ("L_null", "log likelihood of the same data under π(x^0), an isotropic Gaussian or independent"
     " bits: K − L_null is what was learned."),
    ("bits/pixel, bits/dim", "K divided by pixels (all colours together), as the paper has it; and"
     " the code length of one 8-bit value, log2(σ in grey levels) − K/dims: lower is better."),
    ("β_1", "variance of the first step's noise, held fixed. K is that of data with this noise:"
     " smaller β_1, larger K, for every model. Numbers compare at the same β_1 alone."),
    ("ceiling", "the most that any model can reach at this noise: −h(X_1) or the exact kernel where"
     " it is known, else minus the entropy of the noise of β_1 alone, which no image model nears."),
    ("gap", "ceiling − K: what the model leaves."),
    ("last step", "fixed: p(x^0|x^1) is the forward step at equilibrium (App. B.2), so nothing is"
     " learned below the noise of β_1."),
    ("lossless", "of a log probability, not a density: −K is the length of a code that gives back"
     " every bit of an image, in nats, or in bits/dim over its values; lower is better."),
    ("preset", "paper: the networks, readouts and objective of the paper; best: what we found to"
     " reach more with the same diffusion; accelerator: the same, of a size that fills a GPU or"
     " TPU."),
)  # fmt: skip
