"""Plausible mistakes, a line or two of code each, and the families whose parity test must catch them."""

from typing import NamedTuple

PARITY = "test_parity.py::test_a_family_computes_the_same"


class Mutation(NamedTuple):
    name: str
    file: str  # within gptlab
    old: str  # occurs once in it
    new: str
    families: str  # each must notice; in tests that know none, words of pytest's -k
    tests: str = PARITY


NORM, FFN, ATTENTION = "model/norm.py", "model/ffn.py", "model/attention.py"
KERNELS = "model/attention_kernels.py"
POSITION, PLACEMENT, BLOCK = "model/position.py", "model/placement.py", "model/block.py"
EMBEDDING, HEAD, MODEL = "model/embedding.py", "model/head.py", "model/gpt.py"
FAMILIES, FIELDS, WEIGHTS = "convert/families.py", "convert/config_fields.py", "convert/weight_map.py"

EXACT = '(up(x))), with the exact (erf) GELU."""\n\n    activation = staticmethod('
UP, DOWN = "h = self.activation(self.up(x))", "  # (B, T, F)\n        return self.dropout(self.down(h))"
SOFTCAP = "    if rule.softcap is not None:\n        s = rule.softcap * torch.tanh(s / rule.softcap)\n"
MASK = (
    "    mask = _mask(q, k.shape[-2], rule)\n"
    "    return s.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else s + mask\n"
)
MASK_FIRST = f"{MASK.replace('return', 's =')}{SOFTCAP}    return s\n"
SCALE = "(scale or self.head_dim**-0.5)"
CAP_FIRST = SOFTCAP.replace("s / rule.softcap)", "s / (rule.scale or 1.0) / rule.softcap) * (rule.scale or 1.0)")
Q_ROTATED = "position.rotate(self.q_norm(q), start, self.layer_idx)"
OVER_WIDTH = "self.norm(x.transpose(1, 2).flatten(2)).unflatten(2, (x.shape[1], -1)).transpose(1, 2)"
OVER_EACH_HEAD = "F.rms_norm(x, x.shape[-1:], None, self.norm.eps) * self.norm.gain.view(x.shape[1], 1, -1)"
OF_ITS_OWN = "norm(h) for norm, h in zip(self.norms, x.unbind(1), strict=True)"
ALL_OUT, SOME_OUT = "self.out(y.transpose(1, 2).reshape(B, T, -1))", "y.transpose(1, 2).reshape(B, T, -1)"
LLAMA3 = "kept = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0, 1)"
BRANCHES = "y = self.placement.branch(x, attention) + self.ffn_placement.branch(x, ffn)"
IN_TURN = "y = self.placement.branch(x, attention)\n        y = y + self.ffn_placement.branch(x + y, ffn)"
POWERS = "for i in range(0, 2 * (n_head - below), 2)"
LOGIT_SCALE = "logits = logits if self.scale == 1 else logits * self.scale\n"
LOGIT_CAP = "return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)"
TRANSPOSED = "theirs.T if self.layout.transposed and theirs.ndim == 2"

MUTATIONS = [
    Mutation("layernorm's eps ignored", NORM, "self.bias, self.eps)", "self.bias, 1e-5)", "gpt2"),
    Mutation("rmsnorm's eps ignored", NORM, "self.scale(), self.eps)", "self.scale(), 1e-6)", "llama"),
    Mutation("layernorm without bias", NORM, "self.scale(), self.bias,", "self.scale(), None,", "falcon"),
    Mutation("zero_centered ignored", NORM, "return 1 + self.gain if", "return self.gain if", "gemma2"),
    Mutation("GELU by tanh for erf", FFN, f"{EXACT}F.gelu", f"{EXACT}gelu_tanh", "gpt_neox"),
    Mutation("GELU by erf for tanh", FFN, 'F.gelu(x, approximate="tanh")', "F.gelu(x)", "gpt2"),
    Mutation("gate and up swapped", FFN, "self.gate(x)) * self.up(x)", "self.up(x)) * self.gate(x)", "llama"),
    Mutation("no bias in up", FFN, UP + DOWN, f"h = self.activation(F.linear(x, self.up.weight)){DOWN}", "bloom"),
    Mutation("no bias in down", FFN, UP + DOWN, f"{UP}\n        return F.linear(h, self.down.weight)", "opt"),
    Mutation("scores not scaled", ATTENTION, SCALE, "(scale or 1.0)", "gpt2"),
    Mutation("scores scaled by the model's width", ATTENTION, SCALE, "(scale or dim**-0.5)", "llama"),
    Mutation("attention.scale ignored", ATTENTION, SCALE, "self.head_dim**-0.5", "gemma2"),
    Mutation("scores scaled by layers from 0", ATTENTION, "(layer_idx + 1 if", "(max(layer_idx, 1) if", "gpt2"),
    Mutation("inverse_layer_scale ignored", ATTENTION, "if inverse_layer_scale else", "if False else", "gpt2"),
    Mutation("pattern a layer late", ATTENTION, "pattern[layer_idx %", "pattern[(layer_idx + 1) %", "gemma2"),
    Mutation("a token ahead is seen", KERNELS, "causal = key <= query", "causal = key <= query + 1", "bloom"),
    Mutation("no causal mask", KERNELS, "is_causal=True", "is_causal=False", "gpt2"),
    Mutation("a window too wide by one", KERNELS, "query - key < window", "query - key <= window", "starcoder2"),
    Mutation("no soft cap of scores", KERNELS, SOFTCAP, "", "gemma2"),
    Mutation("soft cap after the mask", KERNELS, SOFTCAP + MASK, MASK_FIRST, "gemma2"),
    Mutation("soft cap before the scale", KERNELS, SOFTCAP, CAP_FIRST, "gemma2"),
    Mutation(
        "key/value heads tiled",
        KERNELS,
        "x.repeat_interleave(q.shape[1] // x.shape[1], 1)",
        "x.repeat(1, q.shape[1] // x.shape[1], 1, 1)",
        "llama",
    ),
    Mutation("clip_qkv ignored", ATTENTION, "if self.clip_qkv is not None", "if False", "olmo"),
    Mutation(
        "q normed after its rotation",
        ATTENTION,
        Q_ROTATED,
        "self.q_norm(position.rotate(q, start, self.layer_idx))",
        "qwen3",
    ),
    Mutation("norm over each head for the width", ATTENTION, OVER_WIDTH, OVER_EACH_HEAD, "olmo2"),
    Mutation("heads share one norm", ATTENTION, OF_ITS_OWN, "self.norms[0](h) for h in x.unbind(1)", "cohere"),
    Mutation("no bias in q", ATTENTION, "= self.q(x),", "= F.linear(x, self.q.weight),", "gpt2"),
    Mutation("no bias in v", ATTENTION, ", self.v(x)", ", F.linear(x, self.v.weight)", "starcoder2"),
    Mutation("no bias in out", ATTENTION, ALL_OUT, f"F.linear({SOME_OUT}, self.out.weight)", "phi"),
    Mutation(
        "new keys before the cache's",
        ATTENTION,
        "cat([self.tensors[0], k], -2)",
        "cat([k, self.tensors[0]], -2)",
        "gpt2",
    ),
    Mutation("queries with a cache at 0", KERNELS, "torch.arange(T_k - T_q, T_k,", "torch.arange(T_q,", "starcoder2"),
    Mutation(
        "rotation a position early with a cache",
        ATTENTION,
        "start = 0 if cache is None else cache.n_read",
        "start = 0 if cache is None else max(0, cache.n_read - 1)",
        "llama",
    ),
    Mutation("learned positions from 0 with a cache", MODEL, "else cache.n_read", "else 0", "gpt2"),
    Mutation(
        "halves paired for neighbours",
        POSITION,
        'pairing == "interleaved", pattern',
        'pairing == "half", pattern',
        "gptj",
    ),
    Mutation("rotation the other way", POSITION, "torch.cat([-b, a], -1)", "torch.cat([b, -a], -1)", "llama"),
    Mutation(
        "neighbours rotated the other way",
        POSITION,
        "stack([-x[..., 1::2], x[..., ::2]]",
        "stack([x[..., 1::2], -x[..., ::2]]",
        "cohere",
    ),
    Mutation(
        "frequencies over the whole head",
        POSITION,
        "frequency = _frequency(self.width, theta)",
        "frequency = _frequency(head_dim, theta)[: self.width // 2]",
        "gpt_neox",
    ),
    Mutation(
        "a head's last channels rotated",
        POSITION,
        "x[..., : self.width], x[..., self.width :]",
        "x[..., -self.width :], x[..., : -self.width]",
        "phi",
    ),
    Mutation(
        "linear scaling upside down",
        POSITION,
        "frequency = frequency / factor",
        "frequency = frequency * factor",
        "llama",
    ),
    Mutation("llama3 without a ramp", POSITION, LLAMA3, "kept = (turns > low_freq_factor).double()", "llama"),
    Mutation(
        "llama3's ramp upside down",
        POSITION,
        "(kept + (1 - kept) / factor)\n        elif",
        "(kept / factor + 1 - kept)\n        elif",
        "llama",
    ),
    Mutation("learned positions from row 0", POSITION, "start + self.offset :", "start :", "opt"),
    Mutation("sines between cosines", POSITION, 'if layout == "interleaved" else', "if True else", "xglm"),
    Mutation("last frequency left out", POSITION, "dtype=DOUBLE) if inclusive", "dtype=DOUBLE) if False", "xglm"),
    Mutation(
        "sinusoids from position 0",
        POSITION,
        "torch.arange(_at_least_0(offset), offset + max_len",
        "torch.arange(0, max_len",
        "xglm",
    ),
    Mutation("slopes of the next power in a row", POSITION, POWERS, "for i in range(n_head - below)", "bloom"),
    Mutation("ALiBi the other way", POSITION, "return -self.scale *", "return self.scale *", "bloom"),
    Mutation(
        "ALiBi's scale ignored", POSITION, ".to(self.slopes.dtype) * self.scale", ".to(self.slopes.dtype)", "falcon"
    ),
    Mutation("ALiBi not rounded", POSITION, ".bfloat16()[head] * key.bfloat16())", "[head] * key)", "falcon"),
    Mutation("embedding not scaled", EMBEDDING, "scale * math.sqrt(dim) if scale_by_width", "scale if True", "gemma2"),
    Mutation("embedding not normed", EMBEDDING, "x if self.norm is None", "x if True", "bloom"),
    Mutation("padding is trained", EMBEDDING, "self.weight, self.padding_idx)", "self.weight)", "opt"),
    Mutation("logits not scaled", HEAD, LOGIT_SCALE, "\n", "cohere"),
    Mutation("logits not capped", HEAD, LOGIT_CAP, "return logits", "gemma2"),
    Mutation(
        "logits capped before their scale",
        HEAD,
        LOGIT_SCALE + f"        {LOGIT_CAP}",
        f"logits = {LOGIT_CAP.removeprefix('return ')}\n        return logits * self.scale",
        "head",
        "test_model.py",
    ),
    Mutation("no bias in the head", HEAD, "else self.weight, self.bias)", "else self.weight)", "gptj"),
    Mutation("a head of its own not used", HEAD, "embedding if self.weight is None", "embedding if True", "gpt_neox"),
    Mutation("no final norm", MODEL, "return self.norm(x)", "return x", "gpt2"),
    Mutation(
        "double norms swapped",
        PLACEMENT,
        "self.norm_out(f(self.norm_in(x)))",
        "self.norm_in(f(self.norm_out(x)))",
        "gemma2",
    ),
    Mutation("pre for output", PLACEMENT, "return f(self.norm(x))", "return self.norm(f(x))  # ", "gpt2"),
    Mutation("output for pre", PLACEMENT, "return self.norm(f(x))", "return f(self.norm(x))  # ", "olmo2"),
    Mutation("post inside the residual", PLACEMENT, "return self.norm(x + y)", "return x + self.norm(y)", "openai-gpt"),
    Mutation("residual before the norm", PLACEMENT, "return normed + f(normed)", "return x + f(normed)", "bloom"),
    Mutation("parallel FFN reads the attention's", BLOCK, BRANCHES, IN_TURN, "gpt_neox"),
    Mutation(
        "two norms are one", BLOCK, "self.ffn_placement.branch(x, ffn)", "self.placement.branch(x, ffn)", "falcon"
    ),
    Mutation("parallel FFN reads the raw stream", BLOCK, "attention(h) + ffn(h)", "attention(h) + ffn(x)", "gptj"),
    Mutation("q, k, v in another order", WEIGHTS, 'for x in "qkv")', 'for x in "kqv")', "gpt2"),
    Mutation("groups of q, k, v as one after the other", WEIGHTS, "t = t[self.order.argsort()]", "t = t", "bloom"),
    Mutation("groups of q, k, v the wrong way", WEIGHTS, "self.order.argsort()", "self.order", "gpt_neox"),
    Mutation(
        "square matrices of Conv1D as they are",
        WEIGHTS,
        TRANSPOSED,
        f"{TRANSPOSED} and theirs.shape[0] != theirs.shape[1]",
        "openai-gpt",
    ),
    Mutation(
        "layers with and without window swapped", ATTENTION, 'len(pattern)] == "L"', 'len(pattern)] != "L"', "gemma2"
    ),
    Mutation("q and k norms with their default eps", FAMILIES, '"norm.eps", "qk_norm.eps")', '"norm.eps")', "qwen3"),
    Mutation(
        "query_pre_attn_scalar ignored",
        FAMILIES,
        'c["query_pre_attn_scalar"] ** -0.5',
        'c["head_dim"] ** -0.5',
        "gemma2",
    ),
    Mutation("scale_attn_weights ignored", FAMILIES, 'None if c["scale_attn_weights"] else 1.0', "None", "gpt2"),
    Mutation(
        "serial for parallel",
        FAMILIES,
        '{"block": "serial"},\n    ),\n    rope(partial=True)',
        '{"block": "parallel", "block.shared_norm": False},\n    ),\n    rope(partial=True)',
        "gpt_neox",
    ),
    Mutation(
        "padding token not read",
        FIELDS,
        'return {"embedding.padding_idx": c[flag]}',
        'return {"embedding.padding_idx": None}',
        "xglm",
    ),
]
