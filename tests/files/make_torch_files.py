"""Writes the files beside it, with torch 2.13 and transformers 5.23 (not needed by the tests).

tensors.zip.bin, tensors.legacy.bin: one state dict in the two formats of torch.
bert/, electra/, albert/, roformer/: random models, their vocabulary, and what transformers computes
for TITLES.
"""

import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
import transformers

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "helpers"))
from numpybert import TITLES, vocabulary, wordpiece_ids  # noqa: E402

torch.manual_seed(0)
base = torch.arange(24, dtype=torch.float32)
state = OrderedDict(
    float=base.reshape(4, 6),
    transposed=base.reshape(4, 6).T,
    slice=base[5:11:2],
    half=base.to(torch.float16) / 8,
    bfloat=base.to(torch.bfloat16) / 8,
    double=base.to(torch.float64) / 3,
    long=torch.arange(3),
    flag=torch.tensor([True, False]),
    scalar=torch.tensor(7.5),
    empty=torch.zeros(0, 3),
    parameter=torch.nn.Parameter(base[:2].clone()),
)
torch.save(state, HERE / "tensors.zip.bin")
torch.save(state, HERE / "tensors.legacy.bin", _use_new_zipfile_serialization=False)

vocab = vocabulary()
sizes = dict(
    vocab_size=len(vocab),
    hidden_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=12,
    max_position_embeddings=40,
    initializer_range=0.4,
)
models = {
    "bert": transformers.BertModel(
        transformers.BertConfig(**sizes, layer_norm_eps=1e-5), add_pooling_layer=False
    ),
    "electra": transformers.ElectraModel(transformers.ElectraConfig(**sizes, embedding_size=6)),
    "albert": transformers.AlbertModel(transformers.AlbertConfig(**sizes, embedding_size=6)),
    "roformer": transformers.RoFormerModel(transformers.RoFormerConfig(**sizes, embedding_size=6)),
}
for name, model in models.items():
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    model.eval().config.save_pretrained(folder)
    (folder / "vocab.txt").write_bytes("".join(t + "\n" for t in vocab).encode())
    if name == "electra":
        torch.save(
            model.state_dict(), folder / "pytorch_model.bin", _use_new_zipfile_serialization=False
        )
    elif name == "albert":
        model.save_pretrained(folder)
    else:
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    rows = []
    for title in TITLES:
        ids = torch.tensor([wordpiece_ids(vocab, title)])
        with torch.no_grad():
            rows.append(model(input_ids=ids).last_hidden_state[0].mean(0).numpy())
    np.savetxt(folder / "mean_vectors.txt", np.stack(rows), fmt="%.7f")
