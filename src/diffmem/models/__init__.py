"""M: what denoises.

Modules: `denoiser` (the protocols), `layers`, `dropout`, `block`, `unet`, `song` (DDPM++ and NCSN++), `adm`,
`preconditioning` (VP, VE, EDM), `config` (typed settings and the builder), `foreign` (checkpoints made elsewhere),
`edm_pickle` (EDM's snapshots; `pickle_reader` reads them without running them), `discrete` (networks of timesteps),
`latent` (denoisers of codes, with the autoencoder that makes images of them), `diffusers_folder` (folders of the
diffusers library; `diffusers_files`, `diffusers_parts`, `diffusers_settings`, `diffusers_build` and
`diffusers_autoencoder` serve it), `optimum` (the closed form that training approaches; `pixels` and `posterior` serve
it, and `following`, `bundle`, `tracked`, `directions` and `certificate` follow it along trajectories), `references`
(Gaussians and their mixtures, which know no image), `function` (any callable), `opening` (`open_model`, which
recognises what it is given), `arguments` (what closed forms ask of theirs), `weights` (safetensors).
"""

from diffmem.models.config import ModelConfig, build_denoiser, count_parameters
from diffmem.models.denoiser import Denoiser, Followable, Latent, pixel_shape_of
from diffmem.models.discrete import DiscreteDenoiser
from diffmem.models.function import FunctionDenoiser
from diffmem.models.latent import LatentDenoiser
from diffmem.models.preconditioning import EDM, VE, VP, Preconditioned, Preconditioning
from diffmem.models.pretrained.diffusers_folder import open_diffusers
from diffmem.models.pretrained.edm_pickle import open_edm_pickle
from diffmem.models.pretrained.foreign import from_edm_state_dict
from diffmem.models.pretrained.opening import MODELS_UNDERSTOOD, OpenedModel, open_model
from diffmem.models.weights import load_denoiser, save_denoiser

__all__ = [
    "EDM",
    "MODELS_UNDERSTOOD",
    "VE",
    "VP",
    "Denoiser",
    "DiscreteDenoiser",
    "Followable",
    "FunctionDenoiser",
    "Latent",
    "LatentDenoiser",
    "ModelConfig",
    "OpenedModel",
    "Preconditioned",
    "Preconditioning",
    "build_denoiser",
    "count_parameters",
    "from_edm_state_dict",
    "load_denoiser",
    "open_diffusers",
    "open_edm_pickle",
    "open_model",
    "pixel_shape_of",
    "save_denoiser",
]
