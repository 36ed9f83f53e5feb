#!/usr/bin/env python3
"""Shows that mistakes which are easy to make do not pass: one at a time is made in a copy of the source, `parity` is built
from it for the CPU, and the cases that go with it have to fail.

    tools/mutations.py WORK_FOLDER [--jobs 2] [--only WORD] [--table FILE] [--cases FOLDER...]
    tools/mutations.py --check

WORK_FOLDER takes the copy and its build, and is used again by the next call. Prints a table in Markdown: the mistake, the
case and the tensor that it moves furthest beyond their tolerance, by how much. Ends with 1 if a mistake goes unnoticed, or
does not fit the source any more; --check looks for that alone, and whether docs/mutations.md has a row for each.
"""

import argparse
import math
import os
import shutil
import subprocess
import sys
import time
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "docs/mutations.md"


class Mistake(NamedTuple):
    about: str
    cases: str  # names of case folders, with *
    file: str
    changes: tuple  # (right, wrong) pairs; each right stands in the file exactly once


def mistake(about, cases, file, *changes):
    return Mistake(about, cases, file, changes)


NAMES, CLIP, T5 = "eri/models/weight_names.cpp", "eri/models/clip_text.cpp", "eri/models/t5_encoder.cpp"
TEXTS, PROMPTS = "eri/models/text_conditioning.cpp", "eri/data/prompt_weights.cpp"
UNET, BLOCKS = "eri/models/unet.cpp", "eri/models/unet_blocks.cpp"
VAE, VAE_BLOCKS = "eri/models/autoencoder_kl.cpp", "eri/models/autoencoder_kl_blocks.cpp"
SCHEDULE, DENOISER = "eri/diffusion/noise_schedule.cpp", "eri/diffusion/denoiser.cpp"
SIGMAS, SAMPLERS, UNI_PC = "eri/diffusion/sigma_schedules.cpp", "eri/diffusion/samplers.cpp", "eri/diffusion/uni_pc.cpp"
RULES = "flame/optim/update_rules.h"
TANH_GELU = "0.5f * h * (tanh(0.79788456f * (h + 0.044715f * h * h * h)) + 1.0f)"

MISTAKES = [
    # --- text ---
    mistake("CLIP-G's text_projection is not transposed", "text*", NAMES,
            ('"text_projection", Piece::turned}', '"text_projection"}')),
    mistake("CLIP-G's q and k change places in the fused weight", "text*", NAMES,
            ('{"self_attn.q_proj.", "attn.in_proj_", Piece::q}', '{"self_attn.q_proj.", "attn.in_proj_", Piece::k}'),
            ('{"self_attn.k_proj.", "attn.in_proj_", Piece::k}', '{"self_attn.k_proj.", "attn.in_proj_", Piece::q}')),
    mistake("gelu by tanh in CLIP-G", "text*", CLIP, ("? gelu(h) :", f"? {TANH_GELU} :")),
    mistake("exact gelu in CLIP-L, which has quick_gelu", "text*", CLIP, (": quick_gelu(h)", ": gelu(h)")),
    mistake("the last hidden state, not the one before", "text*", CLIP, ("i + 1 < layers_.size()", "i < layers_.size()")),
    mistake("pooled at the last position, not at the first end token", "text*", CLIP,
            ("where(before < number(static_cast<double>(ids.dim(1))), before, number(0))",
             "before * 0.0f + number(static_cast<double>(ids.dim(1) - 1))")),
    mistake("pooled without the final norm", "text*", CLIP,
            ("final_norm_(ends.reshape({h.dim(0), h.dim(2)}))", "ends.reshape({h.dim(0), h.dim(2)})")),
    mistake("CLIP without its causal mask", "text*", "flame/nn/attention.cpp", ("attend(x, x, true)", "attend(x, x, false)")),
    mistake("layer norm with an eps of 1e-6 in CLIP", "text*", CLIP,
            ('"layer_norm1", 1e-5f', '"layer_norm1", 1e-6f'), ('"layer_norm2", 1e-5f', '"layer_norm2", 1e-6f')),
    mistake("CLIP-L's texts are filled with 0", "tokenize", "eri/data/clip_tokenizer.h", ("kPadL = kEnd", "kPadL = 0")),
    mistake("CLIP-G's texts are filled with the end token", "tokenize", "eri/data/clip_tokenizer.h",
            ("kPadG = 0", "kPadG = kEnd")),
    mistake("texts keep their upper case", "tokenize", "eri/data/clip_tokenizer.cpp",
            ("lower_case(compose(text))", "(text.empty() ? lower_case(compose(text)) : compose(text))")),
    mistake("texts are not composed (NFC)", "tokenize", "eri/data/clip_tokenizer.cpp",
            ("lower_case(compose(text))", "lower_case(text.empty() ? compose(text) : std::string(text))")),
    mistake("numbers are not cut into digits", "tokenize", "eri/data/clip_tokenizer.cpp",
            ("kind != Kind::number && !next.empty()", "!next.empty()")),
    mistake("T5's texts without their end", "tokenize", "eri/data/t5_tokenizer.cpp",
            ("  ids.push_back(kEnd);\n  return ids;", "  return ids;")),
    mistake("weights multiply states, instead of moving them from the empty prompt's", "prompts", TEXTS,
            ("(z - from) * weight + from)", "z * weight + from * 0.0f)")),
    mistake("weights of parentheses in parentheses are not multiplied", "prompts", PROMPTS,
            ("inner = weight * 1.1", "inner = 1.1 + 0 * weight")),
    mistake("escaped parentheses weigh", "prompts", PROMPTS, ('replaced(prompt, "\\\\)", kClose)', 'replaced(prompt, "\\\\)", ")")'),
            ('"\\\\(", kOpen)', '"\\\\(", "(")')),
    mistake("a long prompt's pooled text is its last chunk's", "prompts", TEXTS,
            ("pooled.narrow(0, begin, 1)", "pooled.narrow(0, begin + count - 1, 1)")),
    mistake("a long caption's pooled text is its last chunk's", "captions", TEXTS,
            ("pooled.dim(1)}).narrow(1, 0, 1)", "pooled.dim(1)}).narrow(1, chunks - 1, 1)")),
    mistake("exact gelu in T5", "t5*", T5, ("gelu_tanh(gate_(x)", "gelu(gate_(x)")),
    mistake("T5's gate and value change places", "t5*", T5, ("gelu_tanh(gate_(x)", "gelu_tanh(value_(x)"),
            ("* value_(x).to", "* gate_(x).to")),
    mistake("T5's attention with 1 / sqrt(d)", "t5*", T5,
            ("softmax(q.matmul(k) + bias)", "softmax(q.matmul(k) * (1 / std::sqrt(static_cast<float>(q.dim(3)))) + bias)")),
    mistake("T5's relative positions the other way round", "t5*", T5, ("key - query, buckets_", "query - key, buckets_")),
    mistake("T5 knows distances up to 64 only", "t5*", T5, ("farthest = 128", "farthest = 64")),
    # --- UNet ---
    mistake("gelu by tanh in GEGLU", "unet*", "flame/ops/norm_cpu.cpp",
            ("return 0.5f * (1 + fast_erf(x * 0.70710678f));",
             "return 0.5f * (1 + std::tanh(0.79788456f * (x + 0.044715f * x * x * x)));")),
    mistake("the halves of GEGLU change places", "unet*", "flame/ops/norm_cpu.cpp",
            ("const T *h = from + r * 2 * width, *gate = h + width;", "const T *gate = from + r * 2 * width, *h = gate + width;")),
    mistake("group norm with an eps of 1e-6 in ResBlocks", "unet*", BLOCKS, ("kResEps = 1e-5f", "kResEps = 1e-6f")),
    mistake("group norm with an eps of 1e-5 before transformers", "unet*", BLOCKS,
            ("kTransformerEps = 1e-6f", "kTransformerEps = 1e-5f")),
    mistake("sin before cos in the time embedding", "unet*", BLOCKS,
            ("concat({cos(angles), sin(angles)}, 1)", "concat({sin(angles), cos(angles)}, 1)")),
    mistake("width before height in the time ids", "unet*", UNET,
            ("id_waves_(time_ids)",
             "id_waves_(concat({time_ids.narrow(1, 1, 1), time_ids.narrow(1, 0, 1), time_ids.narrow(1, 2, 4)}, 1))")),
    mistake("the time ids before the pooled text", "unet*", UNET,
            ("concat({pooled.to(dtype_), id_waves.to(dtype_)}, 1)", "concat({id_waves.to(dtype_), pooled.to(dtype_)}, 1)")),
    mistake("time ids rounded to bf16", "unet*", UNET,
            ("id_waves_(time_ids)", "id_waves_(time_ids.to(DType::bf16).to(DType::f32))")),
    mistake("no silu before the embedding's layer", "unet*", UNET,
            ("condition{silu(embed(t, pooled, time_ids)),", "condition{embed(t, pooled, time_ids),")),
    mistake("skip connections before what they join", "unet*", UNET,
            ("concat({h, skips.back()}, 3)", "concat({skips.back(), h}, 3)")),
    mistake("crop before original size in the time ids", "unet*", UNET,
            ("id_waves_(time_ids)",
             "id_waves_(concat({time_ids.narrow(1, 2, 2), time_ids.narrow(1, 0, 2), time_ids.narrow(1, 4, 2)}, 1))")),
    mistake("the UNet pads below and to the right where it halves, as the VAE", "unet*", UNET,
            (".stride = 2, .padding = 1", ".stride = 2, .padding = {0, 0, 1, 1}")),
    mistake("heads of half the width", "unet*", BLOCKS,
            (".heads = width / head_width, .bias", ".heads = 2 * width / head_width, .bias"),
            (".heads = width / head_width, .context", ".heads = 2 * width / head_width, .context")),
    mistake("attention without 1 / sqrt(d)", "unet*", "flame/ops/attention_cpu.cpp",
            ("scale(1 / std::sqrt(static_cast<float>(depth)))", "scale(1)")),
    mistake("layer norm with an eps of 1e-6 in the UNet", "unet*", BLOCKS, ('"norm1", 1e-5f', '"norm1", 1e-6f'),
            ('"norm2", 1e-5f', '"norm2", 1e-6f'), ('"norm3", 1e-5f', '"norm3", 1e-6f')),
    # --- VAE ---
    mistake("the scale of SD 1.5's latents, 0.18215", "vae*", "eri/models/autoencoder_kl.h", ("0.13025f", "0.18215f")),
    mistake("group norm with an eps of 1e-5 in the VAE", "vae*", VAE_BLOCKS, ("kEps = 1e-6f", "kEps = 1e-5f")),
    mistake("the VAE's encoder pads on all sides where it halves", "vae*", VAE_BLOCKS,
            (".stride = 2, .padding = {0, 0, 1, 1}", ".stride = 2, .padding = 1")),
    mistake("latents drawn with the variance, not its root", "vae*", VAE,
            ("exp(posterior.logvar * 0.5f)", "exp(posterior.logvar)")),
    # --- LoRA ---
    mistake("a LoRA's strength is alpha, not alpha / rank", "*lora*", "eri/lora/lora.h",
            ("static_cast<float>(alpha / static_cast<double>(rank()))", "static_cast<float>(alpha)")),
    mistake("a trained LoRA without its strength", "*lora*", "eri/lora/lora.cpp",
            ("flame::Adapter{down.value, up.value, module.scale()}", "flame::Adapter{down.value, up.value, 1.0f}")),
    # --- noise, losses, samplers ---
    mistake("betas along a line, not their roots", "schedule", SCHEDULE,
            ("betas_[t] = root * root;", "betas_[t] = 0.00085 + (0.012 - 0.00085) * (root - first) / (last - first);")),
    mistake("zero terminal SNR by shifting alone", "schedule", SCHEDULE, ("* (start / (start - end));", "* (start / start);")),
    mistake("sigma is sqrt(1 - a), not sqrt((1 - a) / a)", "schedule", SCHEDULE,
            ("std::sqrt((1 - a) / a)", "std::sqrt(1 - a)")),
    mistake("v with its sign turned", "schedule", SCHEDULE, ("return -std::sqrt(1 - a);", "return std::sqrt(1 - a);")),
    mistake("min-SNR for v divided by snr, not snr + 1", "schedule", SCHEDULE,
            ("std::min(snr, gamma) / (snr + 1)", "std::min(snr, gamma) / snr")),
    mistake("the debiased weight has no bound", "schedule", SCHEDULE,
            ("std::min(snr, 1000.0);\n    return prediction", "snr;\n    return prediction")),
    mistake("timesteps one too late", "sampler*", DENOISER,
            ("return nearest - log_sigmas_.begin();", "return nearest - log_sigmas_.begin() + 1;")),
    mistake("the UNet sees x without 1 / sqrt(sigma^2 + 1)", "sampler*", DENOISER,
            ("single(1 / root)", "1.0f")),
    mistake("the first latent is noise * sigma, not * sqrt(1 + sigma^2)", "sampler*", DENOISER,
            ("std::sqrt(1 + first_sigma * first_sigma)", "first_sigma")),
    mistake("sgm_uniform does not drop its last step", "sampler*sgm*", SIGMAS,
            ("even_timesteps(denoiser, steps, steps + 1)", "even_timesteps(denoiser, steps, steps)")),
    mistake("the simple schedule begins one step lower", "sampler*simple*", SIGMAS,
            ("all[all.size() - 1 - static_cast<size_t>(i * stride)]", "all[all.size() - 2 - static_cast<size_t>(i * stride)]")),
    mistake("karras with a rho of 5", "sampler*karras*", SIGMAS, ("rho = 7", "rho = 5")),
    mistake("dpm++ 2m leaves out the estimate before", "sampler-dpmpp_2m-*", SAMPLERS,
            ("mix(1 + half, s.denoised, -half, s.before), s.sigma", "mix(1 + half * 0, s.denoised, half * 0, s.before), s.sigma")),
    mistake("euler ancestral puts back too little noise", "sampler-euler_ancestral*", SAMPLERS,
            ("down), up, s.noise(s.sigma, next))", "down), up * up, s.noise(s.sigma, next))")),
    mistake("exponential is even in the noise level, not in its logarithm", "sampler*exponential", SIGMAS,
            ("std::log(denoiser.sigma_max()), last = std::log(denoiser.sigma_min())",
             "denoiser.sigma_max(), last = denoiser.sigma_min()"),
            ("std::exp(log_sigma)", "log_sigma")),
    mistake("the beta schedule by Beta(0.5, 0.5)", "sampler*beta", SIGMAS, ("steps, 0.6, 0.6)", "steps, 0.5, 0.5)")),
    mistake("ddim_uniform begins at timestep 0", "sampler*ddim_uniform", SIGMAS, ("size_t t = 1;", "size_t t = 0;")),
    mistake("heun takes the slope at the end alone", "sampler-heun*", SAMPLERS,
            ("(s.next - s.sigma) / 2, slope + slope_there", "s.next - s.sigma, slope * 0.0f + slope_there")),
    mistake("dpm++ sde goes halfway in sigma, not in its logarithm", "sampler-dpmpp_sde*", SAMPLERS,
            ("std::exp(-(from + 0.5f * (to - from)))", "std::exp(0 * (from - to)) * (sigma + next) / 2")),
    mistake("dpm++ 2m sde adds noise by the variance, not by its root", "sampler-dpmpp_2m_sde*", SAMPLERS,
            ("s.next * std::sqrt(part)", "s.next * part")),
    mistake("uni_pc without its corrector", "sampler-uni_pc*", UNI_PC,
            ("index_ == 0 ? x : advance(sigmas_[index_], order(index_), denoised)", "x")),
    mistake("bh1 and bh2 change places", "sampler-uni_pc*", UNI_PC,
            ("variant_ == Variant::bh1 ? -h : down", "variant_ == Variant::bh1 ? down : -h")),
    mistake("uni_pc keeps the second last level", "sampler-uni_pc*", SIGMAS,
            ("schedule_sigmas(schedule, denoiser, steps + 1)", "schedule_sigmas(schedule, denoiser, steps)"),
            ("sigmas.erase(sigmas.end() - 2)", "sigmas.shrink_to_fit()")),
    mistake("lcm adds its noise to x, not to the estimate", "sampler-lcm*", SAMPLERS,
            ("mix(1, s.denoised, s.next, s.noise(s.sigma, s.next))", "mix(1, s.x, s.next, s.noise(s.sigma, s.next))")),
    # --- optimisers ---
    mistake("AdamW's weight decay is in the gradient", "optimizer-adamw*", RULES,
            ("const float gradient = scale * raw_gradient;\n    const float m =",
             "const float gradient = scale * raw_gradient + 0.01f * value;\n    const float m ="),
            ("return keep * value - step_size", "return value - step_size")),
    mistake("AdamW without bias correction", "optimizer-adamw*", RULES,
            ("static_cast<float>(rate / correction1),\n            static_cast<float>(std::sqrt(correction2)),",
             "static_cast<float>(rate + 0 * correction1),\n            static_cast<float>(1 + 0 * correction2),")),
    mistake("AdamW's eps inside the root", "optimizer-adamw*", RULES,
            ("step_size * m / (std::sqrt(v) / root + eps)", "step_size * m / std::sqrt(v / (root * root) + eps)")),
    mistake("Lion's direction by its second beta", "optimizer-lion*", RULES,
            ("beta1 * average[0] + toward1 * gradient", "beta2 * average[0] + toward2 * gradient")),
    mistake("Adafactor never clips an update", "optimizer-adafactor*", "flame/optim/adafactor_kernels.h",
            ("(over > 1 ? over : 1)", "(over > 1e30 ? over : 1)")),
    mistake("Adafactor's rows are not divided by their mean", "optimizer-adafactor*", "flame/optim/adafactor.cpp",
            ("rows[y] / static_cast<float>(mean_row)", "rows[y] / static_cast<float>(mean_row * 0 + 1)")),
    mistake("Prodigy's numerator without d / d0", "optimizer-prodigy*", "flame/optim/prodigy_kernels.h",
            ("d_numerator + d / options.d0 * rate * carried", "d_numerator + rate * carried")),
    mistake("Prodigy moves by the new estimate", "optimizer-prodigy*", RULES,
            ("numbers->idle || lr == 0 ? 0 : numbers->rate", "numbers->idle || lr == 0 ? 0 : numbers->d")),
    mistake("gradients are never clipped", "train*", "flame/optim/optimizer_kernels.h",
            ("clip_factor(norm, max_norm) / loss_scale", "clip_factor(norm, max_norm + 1e30) / loss_scale")),
]


def run(command, **options):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)


def copy_source(work):
    """The files that git knows or would, as they are now. Those that have not changed keep their time, so that little is built."""
    for name in run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT).stdout.split("\0"):
        source, target = ROOT / name, work / name
        if name and source.is_file() and (not target.exists() or target.read_bytes() != source.read_bytes()):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())


def build(work, jobs):
    folder = work / ".build"
    if not (folder / "build.ninja").exists():
        cache = ["-D", "CMAKE_CXX_COMPILER_LAUNCHER=ccache"] if shutil.which("ccache") else []
        made = run(["cmake", "-S", work, "-B", folder, "-G", "Ninja", "-D", "CMAKE_BUILD_TYPE=Release",
                    "-D", "FLAME_CUDA=OFF", "-D", "ERI_BENCH=OFF", *cache])
        if made.returncode:
            sys.exit(made.stdout)
    return run(["ninja", "-C", folder, f"-j{jobs}", "parity"])


def failures(work, cases):
    """(distance / tolerance, case, tensor, distance) of all that fails, the worst number first."""
    output = run([work / ".build/bin/parity", *cases], env=os.environ | {"OMP_WAIT_POLICY": "passive"}).stdout
    found = []
    for line in output.splitlines():
        if line.endswith(" FAIL"):
            case, tensor, error, limit, _ = line.split()
            error, limit = float(error), float(limit)
            found.append((error / limit if limit else math.inf, case, tensor, f"{error:.2g}"))
        elif " FAIL: " in line:
            found.append((math.inf, line.split()[0], "", line.split(" FAIL: ")[1]))
    return sorted(found, key=lambda entry: (math.isfinite(entry[0]), entry[0]), reverse=True)


def wrong(text, changes, file):
    for right, other in changes:
        if text.count(right) != 1:
            raise LookupError(f"{file} has {text.count(right)} times: {right}")
        text = text.replace(right, other)
    return text


def misfit(mistake):
    try:
        wrong((ROOT / mistake.file).read_text(), mistake.changes, mistake.file)
    except (OSError, LookupError) as error:
        return str(error)


def make(mistake, work, jobs, cases):
    """A row of the table, and whether the mistake was noticed."""
    file = work / mistake.file
    right = file.read_text()
    try:
        file.write_text(wrong(right, mistake.changes, mistake.file))
        made = build(work, jobs)
        if made.returncode:
            return f"| {mistake.about} | does not build | |", False, made.stdout[-2000:]
        chosen = [case for case in cases if fnmatch(case.name, mistake.cases)]
        found = failures(work, chosen)
    except LookupError as error:
        return f"| {mistake.about} | does not fit the source | |", False, str(error)
    finally:
        file.write_text(right)
    if not found:
        return f"| {mistake.about} | **goes unnoticed** | |", False, f"cases: {[case.name for case in chosen]}"
    _, case, tensor, figure = found[0]
    count = len({entry[1] for entry in found})
    return f"| {mistake.about} | `{case}` `{tensor}` {figure} | {count} of {len(chosen)} |".replace(" ``", ""), True, ""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, nargs="?")
    parser.add_argument("--check", action="store_true", help="only whether each mistake fits the source as it is")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="", help="mistakes whose description has this word")
    parser.add_argument("--table", type=Path, help="write the table there, too")
    parser.add_argument("--cases", type=Path, nargs="*", help="case folders; otherwise tests/parity/cases")
    arguments = parser.parse_args()

    if arguments.check:
        misfits = [f"{each.about}: {why}" for each in MISTAKES if (why := misfit(each))]
        listed = [line.split(" | ")[0][2:] for line in TABLE.read_text().splitlines() if line.startswith("| ")][2:]
        if listed != [each.about for each in MISTAKES]:
            misfits.append(f"{TABLE} has other mistakes: put in it what a run prints")
        if misfits:
            sys.exit("\n".join(misfits))
        return print(f"{len(MISTAKES)} mistakes fit the source")
    if not arguments.work:
        parser.error("where shall the copy be? Give a folder")
    work = arguments.work.resolve()
    cases = [case.resolve() for case in arguments.cases or sorted((ROOT / "tests/parity/cases").iterdir())]
    copy_source(work)
    clean = build(work, arguments.jobs)
    if clean.returncode:
        sys.exit(clean.stdout[-4000:])
    if found := failures(work, cases):
        sys.exit(f"the source fails without any mistake: {found[0]}")

    began = time.monotonic()
    lines = ["| mistake | the case and tensor that show it most, and the distance | cases that fail |", "| --- | --- | --- |"]
    print(*lines, sep="\n")
    missed = []
    for each in MISTAKES:
        if arguments.only not in each.about:
            continue
        row, noticed, why = make(each, work, arguments.jobs, cases)
        print(row, flush=True)
        lines.append(row)
        if not noticed:
            missed.append(f"{each.about}: {why}")
        if arguments.table:
            arguments.table.write_text("\n".join(lines) + "\n")
    minutes = (time.monotonic() - began) / 60
    print(f"{len(lines) - 2 - len(missed)} of {len(lines) - 2} mistakes are noticed, in {minutes:.1f} minutes")
    if missed:
        sys.exit("\n".join(missed))


if __name__ == "__main__":
    main()
