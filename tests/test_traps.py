"""The 27 known traps of the original study's code, each with the tests that show it is not one here.

Tests of traps that no package's tests name stand below the register.
"""

import ast
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

from diffmem.data import ImageSet
from diffmem.models.config import ModelConfig, build_denoiser
from diffmem.runs.recipe import StudyRecipe, TrainRecipe
from diffmem.runs.run import Run
from diffmem.sampling import SamplerConfig, generate
from diffmem.settings import load_recipe
from diffmem.training.config import TrainingConfig

TESTS = Path(__file__).parent
TRAPS = {
    1: ("paths in the documents that do not exist", ["test_scripts::test_a_script_passes_its_arguments_to_the_experiment"]),
    2: (
        "figure 2(a) trained on all 50,000 images, unbalanced; an argument read under another name",
        [
            "data/test_data_subsets::test_every_class_of_a_balanced_set_has_the_same_number_of_images",
            "test_scripts::test_a_script_passes_its_arguments_to_the_experiment",
        ],
    ),
    3: (
        "the mixture without a path to its second source; truncated shares",
        [
            "paper/test_paper_experiment::test_without_imagenet_the_mixture_takes_another_class_and_says_so",
            "data/test_data_mixture::test_mixture_shares_are_rounded_not_truncated",
        ],
    ),
    4: (
        "result folders named by the number of GPUs and of the attempt",
        ["test_traps::test_a_runs_folder_is_named_by_what_it_computes"],
    ),
    5: (
        "ADM crashes; masks of other depths trip an assertion; no default mask",
        [
            "test_traps::test_adm_is_built_from_its_name_alone",
            "models/networks/test_networks_unet::test_a_mask_of_another_length_names_the_outputs",
            "models/networks/test_networks_unet::test_no_mask_keeps_every_skip",
        ],
    ),
    6: ("NCSN++ with a positional embedding unless told", ["test_traps::test_ncsnpp_has_a_fourier_embedding_unless_told"]),
    7: (
        "two flags for the average of which one is ignored; SGD",
        [
            "test_traps::test_an_unknown_or_misspelt_setting_of_the_average_is_refused",
            "training/test_training_schedule::test_mode4_ends_at_its_final_decay_exactly",
            "training/test_training_trainer::test_ten_steps_are_those_of_an_ordinary_training_written_out",
        ],
    ),
    8: (
        "masked skips recognised by their sum being zero",
        ["models/networks/test_networks_unet::test_the_encoder_of_a_masked_residual_network_is_that_of_the_full_one"],
    ),
    9: (
        "masks that shrink the network",
        [
            "models/networks/test_networks_unet::test_a_mask_changes_neither_parameters_nor_shapes",
            "models/test_models_config::test_skip_masks_and_preconditioning_and_fourier_features_add_no_parameters",
        ],
    ),
    10: (
        "Fourier features of scale 16 on a time counted in 999 steps",
        [
            "models/networks/test_networks_layers::test_fourier_frequencies_have_scale_sixteen_and_are_not_trained",
            "models/test_models_preconditioning::test_vp_counts_its_time_in_steps",
        ],
    ),
    11: (
        "one-hot labels: 10 GB at 50,000 classes",
        [
            "models/networks/test_networks_unet::test_looking_up_a_label_is_the_product_with_its_one_hot_vector",
            "test_traps::test_a_model_of_50000_labels_samples_without_one_hot_vectors",
        ],
    ),
    12: (
        "a loss summed over pixels, weight decay coupled into Adam's gradient",
        [
            "training/test_training_loss::test_the_loss_sums_over_pixels_and_averages_over_the_batch",
            "training/test_training_trainer::test_ten_steps_are_those_of_an_ordinary_training_written_out",
        ],
    ),
    13: (
        "the average's decay assumes batches of 512 and sizes that are multiples of 100",
        [
            "training/test_training_schedule::test_mode2_ends_at_the_same_decay_for_every_size_and_batch",
            "training/test_training_schedule::test_truncated_durations_distort_the_decay_and_exact_ones_do_not",
        ],
    ),
    14: (
        "one shuffle repeated for ever",
        ["training/test_training_randomness::test_a_cyclic_order_is_the_same_in_each_epoch"],
    ),
    15: (
        "randomness that depends on the number of processes",
        [
            "test_distributed::test_training_does_not_depend_on_the_number_of_processes",
            "models/networks/test_networks_dropout::test_a_part_of_the_batch_has_the_masks_of_the_whole",
        ],
    ),
    16: (
        "states without the average or the place in the data, in pickles",
        [
            "training/test_training_trainer::test_a_trainer_given_a_saved_state_continues_bit_for_bit",
            "test_traps::test_nothing_in_the_package_unpickles_weights",
        ],
    ),
    17: (
        "CUDA alone, one precision, PNGs decoded while training",
        ["training/test_training_trainer::test_half_precision_trains_float32_weights_close_to_those_of_full_precision"],
    ),
    18: (
        "more looks at larger sets, so larger maxima",
        [
            "runs/test_runs_run::test_every_size_has_the_same_number_of_looks_at_the_same_epochs",
            "test_traps::test_every_size_of_the_paper_scale_is_looked_at_equally_often",
        ],
    ),
    19: (
        "no resuming; samples of one snapshot read for another",
        [
            "runs/test_runs_run::test_the_same_work_is_not_done_twice_and_leaves_every_file_alone",
            "runs/test_runs_evaluations::test_the_file_of_another_snapshot_is_not_used",
        ],
    ),
    20: (
        "the first snapshot is dropped whatever it is",
        ["cli/test_cli_measure::test_no_snapshot_is_left_out_by_its_place"],
    ),
    21: (
        "evaluation hangs on 3, 6 and 7 processes",
        [
            "test_distributed::test_generated_images_are_those_of_one_process_bit_for_bit_in_every_process",
            "test_distributed::test_neighbours_are_those_of_one_process_whatever_the_numbers",
        ],
    ),
    22: (
        "distances by expansion; 0 / 0 for copies of duplicates",
        [
            "memorization/neighbours/test_neighbours_neighbours::test_high_contrast_images_that_float32_cannot_sum_exactly_equal_brute_force",
            "runs/test_runs_evaluations::test_two_distances_of_zero_are_no_memorization",
        ],
    ),
    23: (
        "duplicates hide copies; one image fails",
        [
            "memorization/test_measure::test_copies_are_still_found_when_every_training_image_is_doubled",
            "runs/test_runs_run::test_a_training_set_of_one_image_is_refused_before_training",
        ],
    ),
    24: ("pixels are truncated, not rounded", ["sampling/test_sampling_generate::test_decoding_truncates"]),
    25: (
        "the optimum without labels, dense, on a fresh random subset each call",
        [
            "optimum/test_optimum_optimum::test_the_mean_is_over_the_images_of_the_label",
            "optimum/test_optimum_optimum::test_memory_stays_below_the_workspace_whatever_the_number_of_images",
        ],
    ),
    26: ("CMYK and RGBA photographs", ["data/formats/test_formats_decode::test_cmyk_becomes_rgb"]),
    27: ("pinned to Python 3.8 and packages of its time", ["test_traps::test_every_dependency_is_pinned_where_it_is_known_to_work"]),
}  # fmt: skip


def names_in(path):
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


def test_all_27_traps_are_registered():
    assert sorted(TRAPS) == list(range(1, 28))


@pytest.mark.parametrize("number", TRAPS)
def test_the_tests_of_a_trap_exist(number):
    for test in TRAPS[number][1]:
        file, _, name = test.partition("::")
        assert name in names_in(TESTS / f"{file}.py"), test


def digits(count):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 1, 8, 8), dtype=np.uint8)
    return ImageSet(images, None, tuple(map(str, range(count))))


def test_a_runs_folder_is_named_by_what_it_computes(tmp_path):
    def run(**changes):
        training = TrainingConfig(epochs=10, batch_size=4)
        given = {
            "training_set": digits(8),
            "heldout": None,
            "model": ModelConfig(),
            "training": training,
            "seed": 0,
        }
        return Run(**{**given, **changes}, store=tmp_path)

    assert run().folder == tmp_path / run().run_id
    assert run(heldout=digits(3)).folder == run().folder
    assert run(seed=1).folder != run().folder


def test_adm_is_built_from_its_name_alone():
    config = ModelConfig(architecture="adm", channels=32, multipliers=(1, 2), blocks=1, attention=(4,))
    denoiser = build_denoiser(config, (3, 8, 8))
    assert denoiser(torch.zeros(2, 3, 8, 8), torch.ones(2), None).shape == (2, 3, 8, 8)
    assert ModelConfig(architecture="adm").channels == 192


def test_ncsnpp_has_a_fourier_embedding_unless_told():
    assert ModelConfig(architecture="ncsnpp").embedding == "fourier"
    assert ModelConfig(architecture="ncsnpp", embedding="positional").embedding == "positional"


@pytest.mark.parametrize(
    "setting", ["training.ema_mode=mode4", "training.ema.final_ema=0.9", "training.ema.mode=mode5"]
)
def test_an_unknown_or_misspelt_setting_of_the_average_is_refused(setting):
    from diffmem.errors import UserError

    with pytest.raises(UserError, match=re.escape(setting.split("=")[0].split(".")[-1])):
        load_recipe(TrainRecipe, None, [setting])


def test_a_model_of_50000_labels_samples_without_one_hot_vectors():
    config = ModelConfig(
        preconditioning="edm", channels=8, multipliers=(1,), blocks=1, attention=(), dropout=0.0
    )
    denoiser = build_denoiser(config, (1, 4, 4), num_labels=50_000)
    largest = 0

    def note(module, inputs, output):
        nonlocal largest
        tensors = [one for one in (*inputs, output) if isinstance(one, torch.Tensor)]
        largest = max(largest, *(one.numel() for one in tensors), 0)

    for module in denoiser.modules():
        module.register_forward_hook(note)
    made = generate(denoiser, range(6), SamplerConfig(steps=2), batch_size=3)
    assert made.labels.max() > 10
    assert 0 < largest < 50_000  # no tensor that passes through the network has a place for each label


def test_nothing_in_the_package_unpickles_weights():
    # What processes of ours send each other through pipes is no file.
    package = TESTS.parent / "src/diffmem"
    paths = set(package.rglob("*.py")) - {package / "data/formats/workers.py"}
    source = "".join(path.read_text() for path in paths)
    assert source.count("torch.load(") == len(re.findall(r"torch\.load\([^)]*weights_only=True\)", source))
    assert "pickle.load" not in source
    assert "allow_pickle=True" not in source


def test_every_size_of_the_paper_scale_is_looked_at_equally_often(tmp_path, monkeypatch):
    from diffmem.paper.experiment import load_experiment
    from diffmem.paper.reproduce import plan
    from diffmem.training.schedule import evaluation_images

    monkeypatch.chdir(tmp_path)
    (tmp_path / "datasets/cifar10").mkdir(parents=True)
    (tmp_path / "datasets/cifar10/cifar-10-python.tar.gz").touch()
    recipe: StudyRecipe = plan(load_experiment("fig2_dim"), "paper", tmp_path).levels[0].recipe
    looks = {size: len(evaluation_images(recipe.training, size)) for size in recipe.sizes}
    assert set(looks.values()) == {16}, looks


def test_every_dependency_is_pinned_where_it_is_known_to_work():
    project = tomllib.loads((TESTS.parent / "pyproject.toml").read_text())["project"]
    pinned = {
        re.split(r"==", line)[0].lower().replace("_", "-")
        for line in (TESTS.parent / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    needed = {re.split(r"[<>=!~;\[ ]", one)[0].lower().replace("_", "-") for one in project["dependencies"]}
    assert needed <= pinned
