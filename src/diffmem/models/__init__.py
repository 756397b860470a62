"""M: what denoises.

Modules: `denoiser` (the protocol), `layers`, `dropout`, `block`, `unet`, `song` (DDPM++ and NCSN++), `adm`,
`preconditioning` (VP, VE, EDM), `config` (typed settings and the builder), `foreign` (checkpoints made
elsewhere), `optimum` (the closed form that training approaches; `pixels` and `posterior` serve it, and `following`,
`bundle`, `tracked`, `directions` and `certificate` follow it along trajectories), `references` (Gaussians and their
mixtures, which know no image), `arguments` (what closed forms ask of theirs), `weights` (safetensors).
"""

from diffmem.models.config import ModelConfig, build_denoiser, count_parameters
from diffmem.models.denoiser import Denoiser, Followable
from diffmem.models.foreign import from_edm_state_dict
from diffmem.models.optimum import Optimum, Posterior
from diffmem.models.preconditioning import EDM, VE, VP, Preconditioned, Preconditioning
from diffmem.models.references import GaussianDenoiser, GaussianMixtureDenoiser, covariance_spectrum
from diffmem.models.weights import load_denoiser, save_denoiser

__all__ = [
    "EDM",
    "VE",
    "VP",
    "Denoiser",
    "Followable",
    "GaussianDenoiser",
    "GaussianMixtureDenoiser",
    "ModelConfig",
    "Optimum",
    "Posterior",
    "Preconditioned",
    "Preconditioning",
    "build_denoiser",
    "count_parameters",
    "covariance_spectrum",
    "from_edm_state_dict",
    "load_denoiser",
    "save_denoiser",
]
