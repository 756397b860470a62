import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from text_pipelines import SIDE, diffusers, refused, saved, stable_diffusion, stable_diffusion_xl

from diffmem.models.pretrained.lora import _Adapter, parse_lora
from diffmem.models.pretrained.lora_names import Layer
from diffmem.models.pretrained.text_model import open_text_model

peft = pytest.importorskip("peft", reason="peft, the reference, is not installed: pip install peft")
training_utils = pytest.importorskip("diffusers.training_utils")

MAKERS = {"sd": stable_diffusion, "sdxl": stable_diffusion_xl}
NETWORK = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "conv1", "conv", "conv_shortcut"]
ENCODER = ["q_proj", "out_proj", "fc1"]


@pytest.fixture(scope="module", params=list(MAKERS))
def made(request, tmp_path_factory):
    """The pipeline, its folder, and a LoRA of all its parts as diffusers writes it, with alpha = 2 r in the network."""
    home = tmp_path_factory.mktemp(request.param)
    folder = saved(MAKERS[request.param](), home / "model")
    trained = MAKERS[request.param]()
    parts = [name for name in ("unet", "text_encoder", "text_encoder_2") if hasattr(trained, name)]
    with torch.random.fork_rng():
        torch.manual_seed(7)
        for part in parts:
            options = {"r": 3, "lora_alpha": 6} if part == "unet" else {"r": 2, "lora_alpha": 2}
            modules = NETWORK if part == "unet" else ENCODER
            config = peft.LoraConfig(**options, init_lora_weights=False, target_modules=modules)
            peft.inject_adapter_in_model(config, getattr(trained, part))
            getattr(trained, part).peft_config = {"default": config}
    layers = {f"{part}_lora_layers": peft.get_peft_model_state_dict(getattr(trained, part)) for part in parts}
    texts = training_utils._collate_lora_metadata({part: getattr(trained, part) for part in parts})
    type(trained).save_lora_weights(home, **layers, **texts)
    return MAKERS[request.param], folder, home / "pytorch_lora_weights.safetensors"


def rewritten(path, target, rename, texts=None):
    """The same LoRA under other names; a name of none is left out."""
    tensors = {rename(name): tensor for name, tensor in load_file(path).items()}
    save_file({name: tensor for name, tensor in tensors.items() if name}, target, metadata=texts)
    return target


def as_kohya(is_xl):
    """Names of kohya's scripts, which write alpha into the file."""
    encoders = {"text_encoder_2": "lora_te2", "text_encoder": "lora_te1" if is_xl else "lora_te"}

    def rename(name):
        part, _, rest = name.partition(".")
        layer, ending = rest.rsplit(".lora_", 1)
        layer = layer if part == "unet" or layer.startswith("text_model.") else f"text_model.{layer}"
        side = "down" if ending.startswith("A") else "up"
        return f"{encoders.get(part, 'lora_unet')}_{layer.replace('.', '_')}.lora_{side}.weight"

    return rename


def kohya(path, target, is_xl):
    rewritten(path, target, as_kohya(is_xl))
    tensors = load_file(target)
    for name, tensor in list(tensors.items()):
        if name.endswith("lora_down.weight"):
            alpha = 6.0 if name.startswith("lora_unet") else 2.0
            tensors[name.replace("lora_down.weight", "alpha")] = torch.tensor(alpha)
            assert tensor.shape[0] in (2, 3)
    save_file(tensors, target, metadata={"ss_epoch": "4", "ss_num_train_images": "36", "ss_steps": "x"})
    return target


def answer(model):
    x = 3 * torch.randn(2, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    return model.denoiser(x, 3.0, torch.tensor([0, -1]))


def open_(folder, lora=None):
    return open_text_model(folder, ["a red hat"], lora=lora, device="cpu")


@pytest.mark.parametrize("weight", [1.0, 0.6])
def test_merged_weights_are_those_of_the_library(made, weight, monkeypatch):
    monkeypatch.setattr("transformers.integrations.peft.MIN_PEFT_VERSION", "0.1", raising=False)
    make, folder, file = made
    pipeline = make()
    pipeline.load_lora_weights(str(file.parent), weight_name=file.name)
    pipeline.fuse_lora(lora_scale=weight)
    pipeline.unload_lora_weights()
    model = open_(folder, f"{file}:{weight}")
    found, wanted = model.denoiser.inner._network._network.state_dict(), pipeline.unet.state_dict()
    base = make().unet.state_dict()
    assert found.keys() == wanted.keys()
    assert sum(not torch.equal(base[name], wanted[name]) for name in wanted) > 10
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], atol=1e-5, rtol=1e-5)
    encode = {"device": "cpu", "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
    with torch.no_grad():
        states = pipeline.encode_prompt("a red hat", **encode)[0]
        plain = make().encode_prompt("a red hat", **encode)[0]
    torch.testing.assert_close(model.prompts.states[0], states[0], atol=2e-5, rtol=1e-5)
    assert float((plain - states).abs().max()) > 1e-2


def test_names_of_kohya_and_of_the_library_give_the_same_model(made, tmp_path):
    make, folder, file = made
    is_xl = make is stable_diffusion_xl
    there = open_(folder, kohya(file, tmp_path / "kohya.safetensors", is_xl))
    torch.testing.assert_close(answer(there), answer(open_(folder, file)), atol=1e-6, rtol=1e-6)
    notes = " ".join(there.denoiser.origin.notes)
    count = len(load_file(tmp_path / "kohya.safetensors"))
    assert f"all {count} tensors used" in notes
    assert "rank 2 to 3" in notes
    assert "epoch 4, training images 36)" in notes


def test_the_base_is_the_same_without_the_lora(made):
    _, folder, file = made
    base, tuned = open_(folder), open_(folder, file)
    assert torch.equal(answer(base), answer(open_(folder)))
    assert float((answer(tuned) - answer(base)).abs().max()) > 1e-2
    assert base.denoiser.origin.digest != tuned.denoiser.origin.digest


def test_older_names_of_the_library_are_read(made, tmp_path):
    _, folder, file = made

    def attention(name):
        return name if ".attn" in name and name.startswith("unet.") else ""

    def processors(name):
        layer, side = (
            attention(name).replace("to_out.0", "to_out").rsplit(".lora_", 1) if attention(name) else ("", "")
        )
        module, _, place = layer.rpartition(".")
        return (
            f"{module.removeprefix('unet.')}.processor.{place}_lora.{'down' if side[0] == 'A' else 'up'}.weight"
            if layer
            else ""
        )

    new = rewritten(file, tmp_path / "new.safetensors", attention)
    old = rewritten(file, tmp_path / "old.safetensors", processors)
    torch.testing.assert_close(answer(open_(folder, old)), answer(open_(folder, new)), atol=1e-6, rtol=1e-6)


def test_alpha_of_peft_is_read_from_the_settings_beside_its_file(made, tmp_path):
    _, folder, file = made

    def network_alone(name):
        return name if name.startswith("unet.") else ""

    def of_peft(name):
        return f"base_model.model.{name.removeprefix('unet.')}" if network_alone(name) else ""

    of_library = rewritten(file, tmp_path / "library.safetensors", network_alone)
    other = rewritten(file, tmp_path / "adapter_model.safetensors", of_peft)
    assert "adapter_config.json" in refused(lambda: open_(folder, other))
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 3, "r": 3}')
    torch.testing.assert_close(
        answer(open_(folder, other)), answer(open_(folder, of_library)), atol=0, rtol=0
    )
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 6, "r": 3, "alpha_pattern": {"to_q": 3}}')
    assert not torch.allclose(answer(open_(folder, other)), answer(open_(folder, of_library)), atol=1e-4)


def test_of_two_patterns_that_fit_a_layer_the_first_gives_its_alpha_as_in_peft(tmp_path):
    """The answer is peft's own scale of that layer: alpha / r."""
    pattern = {"attn1.to_q": 3, "to_q": 12}
    network = stable_diffusion().unet
    config = peft.LoraConfig(r=3, lora_alpha=6, alpha_pattern=pattern, target_modules=["to_q"])
    peft.inject_adapter_in_model(config, network)
    layers = {name: one for name, one in network.named_modules() if hasattr(one, "scaling")}
    adapter = _Adapter(tmp_path, {"lora_alpha": 6, "alpha_pattern": pattern})
    scales = {name: adapter.scale(Layer("unet", name), 3) for name in layers}
    assert scales == {name: one.scaling["default"] for name, one in layers.items()}
    assert set(scales.values()) == {1.0, 4.0}


@pytest.mark.parametrize(
    "name",
    ["lcm-lora-sdv1-5.safetensors", "models--x--sdxl-lightning/snapshots/1/pytorch_lora_weights.safetensors"],
)
def test_a_lora_that_is_named_as_one_for_a_few_steps_makes_no_denoiser(made, tmp_path, name):
    _, folder, file = made
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(file, path)
    told = refused(lambda: open_(folder, path))
    assert "distilled for a few steps" in told
    assert "--samples" in told


def test_an_alpha_of_a_whole_number_is_the_same_strength(made, tmp_path):
    _, folder, file = made
    path = kohya(file, tmp_path / "kohya.safetensors", "text_encoder_2" in "".join(load_file(file)))
    usual = answer(open_(folder, path))
    tensors = load_file(path)
    whole = {name: one.long() if name.endswith(".alpha") else one for name, one in tensors.items()}
    save_file(whole, path)
    assert torch.equal(answer(open_(folder, path)), usual)


def test_an_alpha_that_nothing_tells_is_taken_to_be_the_rank_and_that_is_told(made, tmp_path):
    _, folder, file = made
    silent = rewritten(file, tmp_path / "silent.safetensors", lambda name: name)
    count = len(load_file(file)) // 2
    notes = [" ".join(open_(folder, path).denoiser.origin.notes) for path in (silent, file)]
    assert f"Of {count} of the LoRA's layers no alpha is told: it is taken to be the rank" in notes[0]
    assert "no alpha is told" not in notes[1]


def test_what_its_trainer_notes_of_another_training_is_told(made, tmp_path):
    _, folder, file = made
    noted = {"modelspec.prediction_type": "v", "ss_clip_skip": "2"}
    same = {"modelspec.prediction_type": "epsilon", "ss_clip_skip": "None"}
    for texts, told in ((noted, True), (same, False)):
        is_xl = "text_encoder_2" in "".join(load_file(file))
        path = kohya(file, tmp_path / f"{told}.safetensors", is_xl)
        save_file(load_file(path), path, metadata=texts)
        notes = " ".join(open_(folder, path).denoiser.origin.notes)
        assert ("predicts 'v_prediction', but the folder says 'epsilon'" in notes) == told
        assert ("notes clip_skip 2" in notes) == told


def test_kohyas_names_of_sdxl_count_the_blocks_of_the_original_code(tmp_path):
    from diffmem.models.pretrained.lora_names import layer_names

    # The network of SDXL: https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0, unet/config.json; names of sgm's code.
    with torch.device("meta"):
        network = diffusers.UNet2DConditionModel(
            block_out_channels=(32, 64, 128),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 3),
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=80,
            cross_attention_dim=16,
        )
    names = layer_names({"unet": network, "text_encoder_2": torch.nn.Module()})
    for original, wanted in {
        "input_blocks_0_0": "conv_in",
        "input_blocks_1_0_in_layers_2": "down_blocks.0.resnets.0.conv1",
        "input_blocks_3_0_op": "down_blocks.0.downsamplers.0.conv",
        "input_blocks_4_1_transformer_blocks_1_attn1_to_q": "down_blocks.1.attentions.0.transformer_blocks.1.attn1.to_q",
        "input_blocks_4_0_skip_connection": "down_blocks.1.resnets.0.conv_shortcut",
        "input_blocks_8_1_proj_in": "down_blocks.2.attentions.1.proj_in",
        "middle_block_1_transformer_blocks_0_ff_net_0_proj": "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj",
        "middle_block_2_emb_layers_1": "mid_block.resnets.1.time_emb_proj",
        "output_blocks_0_1_proj_out": "up_blocks.0.attentions.0.proj_out",
        "output_blocks_2_2_conv": "up_blocks.0.upsamplers.0.conv",
        "output_blocks_5_1_transformer_blocks_0_attn2_to_out_0": "up_blocks.1.attentions.2.transformer_blocks.0.attn2.to_out.0",
        "output_blocks_8_0_out_layers_3": "up_blocks.2.resnets.2.conv2",
        "time_embed_2": "time_embedding.linear_2",
        "label_emb_0_0": "add_embedding.linear_1",
        "out_2": "conv_out",
    }.items():
        assert names[f"lora_unet_{original}"] == ("unet", wanted), original
    layers = [
        name
        for name, module in network.named_modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
    ]
    assert len({key for key in names if key.startswith("lora_unet_")}) == 2 * len(layers)


def test_tensors_that_fit_nothing_are_counted_and_refused(made, tmp_path):
    _, folder, file = made
    foreign = rewritten(file, tmp_path / "a.safetensors", lambda name: name.replace("unet.", "transformer."))
    text = refused(lambda: open_(folder, foreign))
    count = len(load_file(file))
    unused = sum(name.startswith("unet.") for name in load_file(file))
    assert f"{unused} of its {count} tensors fit no layer" in text
    one = rewritten(
        file,
        tmp_path / "b.safetensors",
        lambda name: name.replace("mid_block.attentions.0", "mid_block.attentions.7"),
    )
    assert f"of its {count} tensors fit no layer" in refused(lambda: open_(folder, one))


def test_a_lora_of_another_model_is_refused(tmp_path, made):
    make, _, file = made
    other = MAKERS["sd" if make is stable_diffusion_xl else "sdxl"]
    text = refused(lambda: open_(saved(other(), tmp_path / "other"), file))
    assert "do not fit their layers" in text or "fit no layer" in text


def changed(file, target, change):
    tensors = load_file(file)
    for name in list(tensors):
        tensors[name] = change(name, tensors[name]).contiguous()
    save_file(tensors, target)
    return target


def test_a_lora_without_effect_is_refused(made, tmp_path):
    _, folder, file = made
    zeros = changed(file, tmp_path / "a.safetensors", lambda name, tensor: tensor * ("lora_A" in name))
    text = refused(lambda: open_(folder, zeros))
    assert "changes nothing" in text
    assert str(len(load_file(file)) // 2) in text
    assert "changes nothing" in refused(lambda: open_(folder, f"{file}:1e-30"))
    assert "weight 0" in refused(lambda: open_(folder, f"{file}:0"))
    assert "at weight 1e-30" in refused(lambda: open_(folder, f"{file}:1e-30"))
    for weight in ("nan", "-inf", "", "0,8", "strong"):
        text = refused(lambda weight=weight: open_(folder, f"{file}:{weight}"))
        assert f"the weight {weight!r} is no number" in text


def test_a_lora_with_some_changes_of_0_is_merged_and_they_are_counted(made, tmp_path):
    _, folder, file = made
    some = changed(file, tmp_path / "a.safetensors", lambda name, tensor: tensor * ("mid_block" not in name))
    count = sum("mid_block" in name for name in load_file(file)) // 2
    assert f"{count} layer(s) with a change of 0" in open_(folder, some).lora.text()


def test_wrong_ranks_and_shapes_are_refused(made, tmp_path):
    _, folder, file = made
    rank = changed(
        file, tmp_path / "a.safetensors", lambda name, tensor: tensor[:1] if "lora_A" in name else tensor
    )
    assert "whose ranks differ" in refused(lambda: open_(folder, rank))
    inner = changed(
        file,
        tmp_path / "b.safetensors",
        lambda name, tensor: torch.cat([tensor, tensor], 1) if "to_q.lora_A" in name else tensor,
    )
    text = refused(lambda: open_(folder, inner))
    assert "pairs do not fit their layers: first unet." in text
    half = tmp_path / "c.safetensors"
    save_file({name: tensor for name, tensor in load_file(file).items() if "lora_B" not in name}, half)
    assert "lacks its up matrix" in refused(lambda: open_(folder, half))


@pytest.mark.parametrize(
    ("ending", "kind"),
    [
        (".hada_w1_a", "LoHa"),
        (".lokr_w1", "LoKr"),
        (".lora_mid.weight", "LoCon with a Tucker"),
        (".dora_scale", "DoRA"),
        (".lora_magnitude_vector.weight", "DoRA"),
        (".oft_blocks", "OFT"),
        (".diff", "full difference"),
    ],
)
def test_other_kinds_of_changes_are_refused_by_name_with_counts(made, tmp_path, ending, kind):
    _, folder, file = made
    tensors = load_file(file)
    save_file(tensors | {f"lora_unet_mid_block_x{ending}": torch.ones(1)}, tmp_path / "a.safetensors")
    text = refused(lambda: open_(folder, tmp_path / "a.safetensors"))
    assert f"Of its {len(tensors) + 1} tensors are 1 of {kind}" in text


def test_dora_and_damaged_settings_in_the_file_are_refused(made, tmp_path):
    _, folder, file = made
    for texts, wanted in {
        '{"unet.use_dora": true}': "DoRA",
        '{"unet.init_lora_weights": "pissa_niter_4"}': "other weights of the model itself",
        '{"init_lora_weights": "olora"}': "other weights of the model itself",
        '{"unet.lora_alpha": "6"}': "must be a number",
        '{"unet.lora_alpha": 6, "unet.alpha_pattern": {"(a+)+$": 1}}': "alpha_pattern",
        '{"unet.lora_alpha": 6, "unet.alpha_pattern": [1]}': "alpha_pattern",
        "[": "damaged",
        "[1]": "no settings",
    }.items():
        target = rewritten(file, tmp_path / "a.safetensors", str, {"lora_adapter_metadata": texts})
        assert wanted in refused(lambda target=target: open_(folder, target))


def test_files_that_hold_no_lora_are_refused(made, tmp_path):
    _, folder, file = made
    assert "no file" in refused(lambda: open_(folder, tmp_path / "a.safetensors"))
    (tmp_path / "a.bin").write_bytes(b"x")
    assert "safetensors" in refused(lambda: open_(folder, tmp_path / "a.bin"))
    (tmp_path / "b.safetensors").write_bytes(file.read_bytes()[:1000])
    assert "b.safetensors" in refused(lambda: open_(folder, tmp_path / "b.safetensors"))
    assert "is a folder" in refused(lambda: open_(folder, tmp_path))
    shutil.copy(file, tmp_path / "UPPER.SAFETENSORS")
    assert open_(folder, tmp_path / "UPPER.SAFETENSORS").lora.weight == 1
    save_file({}, tmp_path / "c.safetensors")
    assert "no tensors" in refused(lambda: open_(folder, tmp_path / "c.safetensors"))
    bad = changed(file, tmp_path / "d.safetensors", lambda name, tensor: tensor / 0)
    assert "not finite" in refused(lambda: open_(folder, bad))


def test_the_weight_stands_behind_the_last_colon(tmp_path):
    assert parse_lora("a.safetensors:0.8") == (tmp_path.__class__("a.safetensors"), 0.8)
    assert parse_lora("C:/a.safetensors")[1] == 1
    odd = tmp_path / "b:2"
    odd.write_bytes(b"")
    assert parse_lora(odd) == (odd, 1.0)
