"""Writes tests/data/ops.safetensors: every op of FLAME as PyTorch computes it in float64.

    python tests/reference/ops.py          (needs torch, numpy and safetensors)

For each line of the catalogue in tests/ops/catalogue.cpp the file holds its inputs NAME/x0, NAME/x1, ..., a gradient
NAME/dy of the result, the result NAME/y, and the gradients NAME/dx0, ... of the floating inputs. They are computed from
the inputs as stored and rounded once, to f32. Inputs come from the line's name, so that a new line changes no other.
"""

import zlib
from pathlib import Path

import numpy
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

OUT = Path(__file__).resolve().parent.parent / "data" / "ops.safetensors"
lines = {}


class Fixed:
    """An input that has no gradient."""

    def __init__(self, draw):
        self.draw = draw


def uniform(*shape, low=-2.0, high=2.0):
    return lambda random: torch.from_numpy(random.uniform(low, high, shape).astype(numpy.float32))


def nonzero(*shape, low=0.25, high=2.0):
    def draw(random):
        value = random.uniform(low, high, shape) * random.choice([-1, 1], shape)
        return torch.from_numpy(value.astype(numpy.float32))

    return draw


def lattice(*shape, step=0.25, count=6):
    """Multiples of `step`: pairs of them tie, and ties are where the rules of minimum and clamp differ."""
    return lambda random: torch.from_numpy((random.integers(-count, count + 1, shape) * step).astype(numpy.float32))


def ids(*shape, count, dtype=numpy.int64):
    return Fixed(lambda random: torch.from_numpy(random.integers(0, count, shape).astype(dtype)))


def flags(*shape):
    return Fixed(lambda random: torch.from_numpy(random.integers(0, 2, shape).astype(bool)))


def fixed(*shape, low=0.5, high=2.0, dtype=torch.float32):
    draw = uniform(*shape, low=low, high=high)
    return Fixed(lambda random: draw(random).to(dtype))


def line(name, formula, *inputs):
    assert name not in lines, name
    lines[name] = (formula, inputs)


def conv2d(x, weight, bias=None, **options):
    return F.conv2d(x.permute(0, 3, 1, 2), weight.permute(0, 3, 1, 2), bias, **options).permute(0, 2, 3, 1)


def attention(q, k, v, causal=False):
    scores = torch.einsum("nqhd,nkhd->nhqk", q, k) / q.shape[-1] ** 0.5
    if causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(hidden, -torch.inf)
    return torch.einsum("nhqk,nkhd->nqhd", scores.softmax(-1), v)


def group_norm(x, groups, weight, bias, eps):
    return F.group_norm(x.movedim(-1, 1), groups, weight, bias, eps).movedim(1, -1)


def lora_linear(x, weight, bias, down, up, scale):
    return F.linear(x, weight, bias) + scale * (x @ down.T) @ up.T


def geglu(x):
    h, gate = x.chunk(2, -1)
    return h * F.gelu(gate)


# --- arithmetic ---
line("add", lambda a, b: a + b, uniform(2, 3, 4), uniform(2, 3, 4))
line("add.broadcast", lambda a, b: a + b, uniform(2, 3, 4), uniform(3, 1))
line("add.outer", lambda a, b: a + b, uniform(3, 1), uniform(4))
line("add.scalar", lambda x: x + 1.5, uniform(3, 4))
line("add.to_scalar", lambda x: 1.5 + x, uniform(3, 4))
line("sub", lambda a, b: a - b, uniform(2, 3, 4), uniform(2, 1, 4))
line("sub.scalar", lambda x: x - 1.5, uniform(3, 4))
line("sub.from_scalar", lambda x: 1.5 - x, uniform(3, 4))
line("mul", lambda a, b: a * b, uniform(2, 3, 4), uniform(2, 3, 4))
line("mul.broadcast", lambda a, b: a * b, uniform(4), uniform(2, 3, 4))
line("mul.scalar", lambda x: x * 1.5, uniform(3, 4))
line("mul.by_scalar", lambda x: 1.5 * x, uniform(3, 4))
line("mul.negation", lambda x: -x, uniform(3, 4))
line("div", lambda a, b: a / b, uniform(2, 3, 4), nonzero(3, 1))
line("div.scalar", lambda x: x / 1.5, uniform(3, 4))
line("div.of_scalar", lambda x: 1.5 / x, nonzero(3, 4))
line("minimum", torch.minimum, lattice(5, 6), lattice(6))
line("maximum", torch.maximum, lattice(5, 6), lattice(6))
line("pow", torch.pow, uniform(3, 4, low=0.25), uniform(4))
line("pow.scalar", lambda x: x**2.5, uniform(3, 4, low=0.25))
line("pow.square", lambda x: x**2, nonzero(3, 4))
line("clamp", lambda x: x.clamp(-0.5, 1), lattice(5, 6))
line("abs", torch.abs, lattice(5, 6))

# --- functions ---
line("exp", torch.exp, uniform(5, 6, low=-8, high=8))
line("log", torch.log, uniform(5, 6, low=0.05, high=8))
line("sqrt", torch.sqrt, uniform(5, 6, low=0.05, high=8))
line("erf", torch.erf, uniform(5, 6, low=-3, high=3))
line("sin", torch.sin, uniform(5, 6, low=-6, high=6))
line("cos", torch.cos, uniform(5, 6, low=-6, high=6))
line("sigmoid", torch.sigmoid, uniform(5, 6, low=-8, high=8))
line("tanh", torch.tanh, uniform(5, 6, low=-4, high=4))
line("silu", F.silu, uniform(5, 6, low=-8, high=8))
line("gelu", F.gelu, uniform(5, 6, low=-4, high=4))
line("gelu_tanh", lambda x: F.gelu(x, approximate="tanh"), uniform(5, 6, low=-4, high=4))
line("quick_gelu", lambda x: x * torch.sigmoid(1.702 * x), uniform(5, 6, low=-4, high=4))

# --- comparisons, selection ---
line("less", lambda a, b: a < b, lattice(5, 6), lattice(6))
line("less_equal", lambda a, b: a <= b, lattice(5, 6), lattice(6))
line("less.greater", lambda a, b: a > b, lattice(5, 6), lattice(6))
line("less_equal.greater", lambda a, b: a >= b, lattice(5, 6), lattice(6))
line("equal", lambda a, b: a == b, lattice(5, 6), lattice(6))
line("not_equal", lambda a, b: a != b, lattice(5, 6), lattice(6))
line("where", torch.where, flags(2, 3, 1), uniform(2, 3, 4), uniform(4))
line("accumulate", lambda a, b: a + b, uniform(3, 4), uniform(3, 4))
line("accumulate.narrow", lambda a, b: a + b, fixed(3, 4), fixed(3, 4, dtype=torch.bfloat16))

# --- sums ---
line("sum", torch.sum, uniform(3, 4, 5))
line("sum.leading", lambda x: x.sum((0, 1)), uniform(3, 4, 5))
line("sum.trailing", lambda x: x.sum(-1), uniform(3, 4, 5))
line("sum.middle", lambda x: x.sum(1, keepdim=True), uniform(3, 4, 5))
line("sum.split", lambda x: x.sum((0, 2)), uniform(3, 4, 5))
line("mean", torch.mean, uniform(3, 4, 5))
line("mean.axes", lambda x: x.mean((1, 2), keepdim=True), uniform(3, 4, 5))
line("sum_to", lambda x: x.sum((0, 2)).reshape(4, 1), uniform(3, 4, 5))

# --- layout ---
line("reshape", lambda x: x.reshape(6, 4), uniform(2, 3, 4))
line("permute", lambda x: x.permute(2, 0, 1), uniform(2, 3, 4))
line("permute.transpose", lambda x: x.transpose(1, 2), uniform(2, 5, 7))
line("permute.heads", lambda x: x.permute(0, 2, 1, 3), uniform(2, 3, 2, 4))
line("permute.reverse", lambda x: x.permute(3, 2, 1, 0), uniform(2, 3, 1, 4))
line("permute.member", lambda x: x.permute(1, 0), uniform(3, 4))
line("channels_last", lambda x: x.permute(0, 2, 3, 1), uniform(2, 3, 2, 5))
line("channels_first", lambda x: x.permute(0, 3, 1, 2), uniform(2, 2, 5, 3))
line("narrow.rows", lambda x: x[1:3], uniform(4, 3))
line("narrow", lambda x: x[:, 1:3], uniform(2, 4, 3))
line("concat", lambda a, b, c: torch.cat([a, b, c], 1), uniform(2, 3, 2), uniform(2, 1, 2), uniform(2, 4, 2))
line("concat.rows", lambda a, b: torch.cat([a, b]), uniform(2, 3), uniform(1, 3))
line("stack", lambda a, b: torch.stack([a, b], 1), uniform(2, 3), uniform(2, 3))
line("stack.last", lambda a, b: torch.stack([a, b], -1), uniform(2, 3), uniform(2, 3))
line("repeat", lambda x: x.repeat(1, 3, 1), uniform(2, 3, 4))
line("upsample_nearest2x", lambda x: x.repeat_interleave(2, 1).repeat_interleave(2, 2), uniform(2, 3, 2, 5))
line("pad", lambda x: F.pad(x, (0, 0, 1, 2), value=0.5), uniform(2, 3, 4))
line("cast.f16", lambda x: x.to(torch.float16), uniform(3, 4))
line("cast.bf16", lambda x: x.to(torch.bfloat16), uniform(3, 4))
line("embedding", lambda table, i: table[i], uniform(7, 4), ids(2, 5, count=7))
line("embedding.i32", lambda table, i: table[i.long()], uniform(7, 4), ids(5, count=7, dtype=numpy.int32))

# --- products ---
line("matmul", torch.matmul, uniform(3, 4), uniform(4, 5))
line("matmul.batched", torch.matmul, uniform(2, 3, 4), uniform(2, 4, 5))
line("matmul.broadcast", torch.matmul, uniform(2, 1, 3, 4), uniform(3, 4, 5))
line("matmul.tall", torch.matmul, uniform(2, 3, 4), uniform(4, 5))
line("linear", F.linear, uniform(2, 3, 4), uniform(5, 4), uniform(5))
line("linear.no_bias", F.linear, uniform(6, 4), uniform(5, 4))
line("lora_linear", lambda x, w, b, down, up: lora_linear(x, w, b, down, up, 0.5),
     uniform(2, 3, 4), uniform(5, 4), uniform(5), uniform(2, 4), uniform(5, 2))
line("lora_linear.no_bias", lambda x, w, down, up: lora_linear(x, w, None, down, up, 0.5),
     uniform(6, 4), uniform(5, 4), uniform(2, 4), uniform(5, 2))
line("conv2d", lambda x, w, b: conv2d(x, w, b, padding=1), uniform(2, 4, 5, 3), uniform(4, 3, 3, 3), uniform(4))
line("conv2d.valid", lambda x, w: conv2d(x, w), uniform(2, 4, 5, 3), uniform(4, 3, 3, 3))
line("conv2d.stride2", lambda x, w, b: conv2d(x, w, b, stride=2, padding=1),
     uniform(2, 4, 6, 3), uniform(4, 3, 3, 3), uniform(4))
line("conv2d.1x1", lambda x, w, b: conv2d(x, w, b), uniform(2, 3, 4, 3), uniform(4, 1, 1, 3), uniform(4))
line("conv2d.groups", lambda x, w, b: conv2d(x, w, b, padding=1, groups=2),
     uniform(2, 4, 5, 6), uniform(4, 3, 3, 3), uniform(4))
line("conv2d.depthwise", lambda x, w: conv2d(x, w, stride=2, padding=1, groups=6), uniform(2, 5, 4, 6), uniform(6, 3, 3, 1))
line("conv2d.groups_1x1", lambda x, w, b: conv2d(x, w, b, groups=3), uniform(2, 3, 4, 6), uniform(9, 1, 1, 2), uniform(9))
line("softmax", lambda x: x.softmax(-1), uniform(2, 3, 5))
line("log_softmax", lambda x: x.log_softmax(-1), uniform(2, 3, 5))
line("attention", attention, uniform(2, 3, 2, 4), uniform(2, 5, 2, 4), uniform(2, 5, 2, 4))
line("attention.causal", lambda q, k, v: attention(q, k, v, causal=True),
     uniform(2, 5, 2, 4), uniform(2, 5, 2, 4), uniform(2, 5, 2, 4))

# --- norms ---
line("layer_norm", lambda x, w, b: F.layer_norm(x, x.shape[-1:], w, b, 1e-5),
     uniform(2, 3, 11), uniform(11), uniform(11))
line("layer_norm.offset", lambda x, w, b: F.layer_norm(x, x.shape[-1:], w, b, 1e-5),
     uniform(2, 3, 11, low=30, high=31), uniform(11), uniform(11))
line("rms_norm", lambda x, w: F.rms_norm(x, x.shape[-1:], w, 1e-6), uniform(2, 3, 11), uniform(11))
line("rms_norm.eps", lambda x, w: F.rms_norm(x, x.shape[-1:], w, 0.5), uniform(5, 16), uniform(16))
line("group_norm", lambda x, w, b: group_norm(x, 4, w, b, 1e-5), uniform(2, 3, 3, 8), uniform(8), uniform(8))
line("group_norm.one_sample", lambda x, w, b: group_norm(x, 4, w, b, 1e-5), uniform(1, 3, 3, 8), uniform(8), uniform(8))
line("group_norm.offset", lambda x, w, b: group_norm(x, 4, w, b, 1e-5),
     uniform(2, 3, 3, 8, low=30, high=31), uniform(8), uniform(8))
line("group_norm.single", lambda x, w, b: group_norm(x, 12, w, b, 1e-6), uniform(2, 5, 12), uniform(12), uniform(12))
line("group_norm_silu", lambda x, w, b: F.silu(group_norm(x, 2, w, b, 1e-5)),
     uniform(2, 3, 3, 6), uniform(6), uniform(6))
line("geglu", geglu, uniform(2, 3, 10, low=-4, high=4))

# --- losses ---
line("mse_loss", F.mse_loss, uniform(2, 3, 4), uniform(2, 3, 4))
line("weighted_mse_loss", lambda p, t, w: (w * (p - t).square().mean((1, 2))).mean(),
     uniform(3, 2, 4), uniform(3, 2, 4), fixed(3))
line("huber_loss", F.huber_loss, uniform(3, 4), uniform(3, 4))
line("huber_loss.delta", lambda p, t: F.huber_loss(p, t, delta=0.5), uniform(3, 4), uniform(3, 4))
line("smooth_l1_loss", F.smooth_l1_loss, uniform(3, 4), uniform(3, 4))
line("smooth_l1_loss.beta", lambda p, t: F.smooth_l1_loss(p, t, beta=0.5), uniform(3, 4), uniform(3, 4))
line("smooth_l1_loss.size", lambda p, t: F.smooth_l1_loss(p, t, beta=0), uniform(3, 4), uniform(3, 4))


def evaluate(name, formula, inputs):
    random = numpy.random.default_rng(zlib.crc32(name.encode()))
    stored = [(i.draw if isinstance(i, Fixed) else i)(random) for i in inputs]
    wide = [x.double() if x.is_floating_point() else x for x in stored]
    trainable = [x.requires_grad_() for x, i in zip(wide, inputs) if not isinstance(i, Fixed)]
    y = formula(*wide)
    tensors = {f"{name}/x{i}": x for i, x in enumerate(stored)}
    tensors[f"{name}/y"] = y.detach().float() if y.dtype == torch.float64 else y.detach()
    if y.requires_grad:
        dy = torch.from_numpy(random.uniform(-1, 1, tuple(y.shape)).astype(numpy.float32)).to(tensors[f"{name}/y"].dtype)
        tensors[f"{name}/dy"] = dy
        gradients = iter(torch.autograd.grad(y, trainable, dy.to(y.dtype)))
        for i, x in enumerate(inputs):
            if not isinstance(x, Fixed):
                tensors[f"{name}/dx{i}"] = next(gradients).float()
    return {key: value.contiguous() for key, value in tensors.items()}


if __name__ == "__main__":
    tensors = {}
    for name, (formula, inputs) in lines.items():
        tensors |= evaluate(name, formula, inputs)
    save_file(tensors, OUT)
    print(f"{OUT}: {len(lines)} lines, {OUT.stat().st_size} bytes, PyTorch {torch.__version__}")
