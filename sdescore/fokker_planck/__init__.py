"""The Fokker–Planck equation, solved on a grid: densities where samplers give samples."""
