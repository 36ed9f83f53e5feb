"""The least that a training step of SDXL's UNet must compute and move, which each kind of kernel is held to.

A LoRA is on all linear layers of the transformers, so gradients are needed from the first transformer on, and not those
of the skip halves that come from before it; the frozen weights need none.
"""
CHANNELS, DEPTH, HEAD = (320, 640, 1280), (0, 2, 10), 64
TEXT_TOKENS, TEXT_CHANNELS = 77, 2048
BYTES = 2              # of an activation in bf16 or f16
ADAMW_BYTES = 34       # of a parameter in AdamW and clipping: weight, gradient, two moments, norm and 16-bit copy

KINDS = ["convolutions", "matrix products", "self-attention", "self-attention, gradients", "attention to the text",
         "norms", "GEGLU", "adapters and AdamW"]


class Layers:
    """The UNet's layers in their order, for one picture: convolutions, 1x1 convolutions, norms, transformers."""

    def __init__(self, side):
        self.side, self.adapted = side, False  # adapted: behind the first LoRA
        self.convolutions, self.skips, self.norms, self.transformers = [], [], [], []
        x = self.convolution(4, CHANNELS[0])
        skips = [x]
        for level, channels in enumerate(CHANNELS):
            for _ in range(2):
                x = self.residual_block([x], channels, level)
                skips.append(x)
            if level < 2:
                self.side //= 2
                x = self.convolution(x[0], channels)
                skips.append(x)
        x = self.residual_block([x], CHANNELS[2], 2)
        x = self.residual_block([x], CHANNELS[2])
        for level in (2, 1, 0):
            for _ in range(3):
                x = self.residual_block([x, skips.pop()], CHANNELS[level], level)
            if level:
                self.side *= 2
                x = self.convolution(x[0], CHANNELS[level])
        self.norms.append((self.pixels, CHANNELS[0], self.adapted))
        self.convolution(CHANNELS[0], 4)

    @property
    def pixels(self):
        return self.side**2

    def convolution(self, inputs, outputs, wanted=None):
        """`wanted` of the inputs need a gradient; gives the output's channels and whether it needs one."""
        self.convolutions.append((self.pixels, inputs, outputs, (inputs if wanted is None else wanted) * self.adapted))
        return outputs, self.adapted

    def residual_block(self, inputs, outputs, level=0):
        channels = sum(count for count, _ in inputs)
        wanted = sum(count for count, trained in inputs if trained)
        self.norms.append((self.pixels, channels, wanted > 0))
        self.convolution(channels, outputs, wanted)
        self.norms.append((self.pixels, outputs, self.adapted))
        self.convolution(outputs, outputs)
        if channels != outputs:
            self.skips.append((self.pixels, channels, outputs, wanted))
        if DEPTH[level]:
            self.norms.append((self.pixels, outputs, self.adapted))
            self.transformers.append((self.pixels, outputs, DEPTH[level], self.adapted))
            self.adapted = True
        return outputs, self.adapted


def work(samples, rank, size=1024):
    """{kind: (FLOP, bytes)} of a step with the policy `lean`; bytes only of what moves more than it computes."""
    layers = Layers(size // 8)
    flop, moved = dict.fromkeys(KINDS, 0), dict.fromkeys(KINDS, 0)
    parameters = 0
    for pixels, inputs, outputs, wanted in layers.convolutions:
        flop["convolutions"] += 2 * 9 * pixels * outputs * (inputs + wanted)
    for pixels, inputs, outputs, wanted in layers.skips:
        flop["matrix products"] += 2 * pixels * outputs * (inputs + wanted)
    for pixels, channels, wanted in layers.norms:
        moved["norms"] += BYTES * pixels * channels * (2 + 3 * wanted)  # x, y; x, dy, dx
    for tokens, channels, depth, wanted in layers.transformers:
        # Inputs and outputs of a block's layers in channels: q, k, v, out; q, out; the feed-forward's two; not the text's.
        linear = [(1, 1)] * 6 + [(1, 8), (4, 1)]
        outside = [(1, 1)] * 2
        every = [pair for pair in linear for _ in range(depth)] + outside
        frozen = 2 * tokens * channels**2 * sum(i * o for i, o in every)
        text = 2 * TEXT_TOKENS * TEXT_CHANNELS * channels * 2 * depth
        first = 0 if wanted else 2 * tokens * channels**2  # the first layer of all needs no gradient of its input
        here = rank * channels * sum(i + o for i, o in every)
        there = rank * (TEXT_CHANNELS + channels) * 2 * depth
        flop["matrix products"] += 2 * frozen - first + text + 6 * (tokens * here + TEXT_TOKENS * there)
        flop["self-attention"] += 4 * tokens**2 * channels * depth
        flop["self-attention, gradients"] += 10 * tokens**2 * channels * depth
        flop["attention to the text"] += 14 * tokens * TEXT_TOKENS * channels * depth
        text_bytes = BYTES * 2 * TEXT_TOKENS * channels * depth
        moved["attention to the text"] += 6 * BYTES * tokens * channels * depth + 3 * text_bytes  # q, y; q, y, dy, dq
        moved["norms"] += 3 * depth * BYTES * tokens * channels * 6  # x, y; y, dy, what is added, dx
        moved["GEGLU"] += depth * BYTES * tokens * channels * (8 + 4 + 8 + 4 + 8)  # x, y; x, dy, dx
        parameters += here + there
    result = {kind: (samples * flop[kind], samples * moved[kind]) for kind in KINDS}
    result["adapters and AdamW"] = (0, ADAMW_BYTES * parameters)
    return result


def bounds_ms(samples, rank, size, tflops, tb_s):
    """{kind: the least that its kernels need in milliseconds} at this speed of products and of memory."""
    return {kind: max(operations / tflops, count / tb_s) / 1e9
            for kind, (operations, count) in work(samples, rank, size).items()}
