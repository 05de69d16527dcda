"""One run on a real card, or on a simulated one to check the script: ``python3 -m benchmarks.vgpu.real_card``."""
