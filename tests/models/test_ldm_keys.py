"""Two sets of names, one to one; diffusers' own converter is the oracle."""

import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

from latent_ae.models.ldm_keys import from_ldm_keys, to_ldm_keys
from tests.models.stock_models import ARCHITECTURES, GAUSSIAN, arguments, ldm_tensors, stock


@pytest.mark.parametrize("name", GAUSSIAN)
def test_the_names_are_those_that_diffusers_converter_reads(name: str) -> None:
    model = stock(name)
    converted = convert_ldm_vae_checkpoint(ldm_tensors(model), model.config)
    expected = model.state_dict()
    assert converted.keys() == expected.keys()
    assert [key for key in expected if not torch.equal(converted[key], expected[key])] == []


@pytest.mark.parametrize("name", [*ARCHITECTURES, "twelve levels"])
def test_the_two_sets_of_names_are_one_to_one(name: str) -> None:
    if name == "twelve levels":  # numbers of two digits
        with torch.device("meta"):
            state = AutoencoderKL(**arguments(*(4,) * 12, attention=(1, 10, 11))).state_dict()
        levels = 12
    else:
        state, levels = stock(name).state_dict(), len(ARCHITECTURES[name][1]["block_out_channels"])
    there = to_ldm_keys(state, levels)
    assert len(there) == len(state)
    back = from_ldm_keys(there, levels)
    assert list(back) == list(state)
    assert all(back[key].shape == state[key].shape for key in state)
    if name != "twelve levels":
        assert all(torch.equal(back[key], state[key]) for key in state)
        again = to_ldm_keys(back, levels)
        assert all(torch.equal(again[key], there[key]) for key in there)


def test_names_and_shapes_of_published_files() -> None:
    names = {
        "encoder.down_blocks.1.resnets.0.conv_shortcut.weight": "encoder.down.1.block.0.nin_shortcut.weight",
        "encoder.down_blocks.2.downsamplers.0.conv.bias": "encoder.down.2.downsample.conv.bias",
        "encoder.mid_block.attentions.0.group_norm.weight": "encoder.mid.attn_1.norm.weight",
        "encoder.mid_block.resnets.1.norm2.bias": "encoder.mid.block_2.norm2.bias",
        "encoder.conv_norm_out.weight": "encoder.norm_out.weight",
        "decoder.up_blocks.0.upsamplers.0.conv.weight": "decoder.up.3.upsample.conv.weight",
        "decoder.up_blocks.3.resnets.2.conv1.weight": "decoder.up.0.block.2.conv1.weight",
        "decoder.mid_block.attentions.0.to_out.0.bias": "decoder.mid.attn_1.proj_out.bias",
        "decoder.conv_out.bias": "decoder.conv_out.bias",
        "quantize.embedding.weight": "quantize.embedding.weight",
        # taming-transformers' VQGAN, MoVQ
        "encoder.down_blocks.3.attentions.1.to_v.bias": "encoder.down.3.attn.1.v.bias",
        "decoder.up_blocks.0.attentions.2.group_norm.bias": "decoder.up.3.attn.2.norm.bias",
        "decoder.up_blocks.0.attentions.2.spatial_norm.conv_b.bias": "decoder.up.3.attn.2.norm.conv_b.bias",
        "decoder.up_blocks.1.resnets.0.norm1.conv_y.weight": "decoder.up.2.block.0.norm1.conv_y.weight",
    }
    assert list(to_ldm_keys(dict.fromkeys(names, torch.zeros(4)), 4)) == list(names.values())
    query = {"encoder.mid_block.attentions.0.to_q.weight": torch.arange(4.0).reshape(2, 2)}
    assert to_ldm_keys(query, 4)["encoder.mid.attn_1.q.weight"].tolist() == [[[[0]], [[1]]], [[[2]], [[3]]]]
