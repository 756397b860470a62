"""M: what denoises."""

from diffmem.models.config import ModelConfig, build_denoiser, count_parameters
from diffmem.models.denoiser import Denoiser, Latent, Origin, Refinable, pixel_shape_of
from diffmem.models.discrete import DiscreteDenoiser
from diffmem.models.function import FunctionDenoiser, function_denoiser
from diffmem.models.latent import LatentDenoiser
from diffmem.models.preconditioning import EDM, VE, VP, Preconditioned, Preconditioning
from diffmem.models.pretrained.diffusers_folder import open_diffusers
from diffmem.models.pretrained.edm_pickle import open_edm_pickle
from diffmem.models.pretrained.foreign import from_edm_state_dict
from diffmem.models.pretrained.opening import MODELS_UNDERSTOOD, open_model, origin_of
from diffmem.models.pretrained.text_model import TextModel, open_text_model
from diffmem.models.weights import load_denoiser, save_denoiser

__all__ = [
    "EDM",
    "MODELS_UNDERSTOOD",
    "VE",
    "VP",
    "Denoiser",
    "DiscreteDenoiser",
    "FunctionDenoiser",
    "Latent",
    "LatentDenoiser",
    "ModelConfig",
    "Origin",
    "Preconditioned",
    "Preconditioning",
    "Refinable",
    "TextModel",
    "build_denoiser",
    "count_parameters",
    "from_edm_state_dict",
    "function_denoiser",
    "load_denoiser",
    "open_diffusers",
    "open_edm_pickle",
    "open_model",
    "open_text_model",
    "origin_of",
    "pixel_shape_of",
    "save_denoiser",
]
