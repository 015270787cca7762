"""Writes torch_adam.safetensors: torch's Adam after three steps, and after two more.

    python torch_adam.py     (torch 2.15.0, safetensors 0.7 or later)
"""

import torch
from safetensors.torch import save_file

torch.manual_seed(1)
start = {"w": torch.randn(3, 4, dtype=torch.float64), "b": torch.randn(3, dtype=torch.float64)}
params = {name: torch.nn.Parameter(p.clone()) for name, p in start.items()}
grads = [{name: torch.randn_like(p) for name, p in start.items()} for _ in range(5)]
opt = torch.optim.Adam(params.values(), lr=0.02, amsgrad=True, weight_decay=0.1, foreach=False)


def steps(of):
    for grad in of:
        for name, p in params.items():
            p.grad = grad[name]
        opt.step()


steps(grads[:3])
out = {}
for name, p in params.items():
    for state, tensor in opt.state[p].items():
        out[f"{name}.{state}"] = tensor.clone()
    out[f"{name}.theta3"] = p.detach().clone()
    for t in (3, 4):
        out[f"{name}.grad{t + 1}"] = grads[t][name]
steps(grads[3:])
for name, p in params.items():
    out[f"{name}.theta5"] = p.detach().clone()
save_file({name: tensor.contiguous() for name, tensor in out.items()}, "torch_adam.safetensors")
