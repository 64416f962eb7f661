import sdescore as ss
from sdescore.datasets import two_moons

sde = ss.VPSDE(beta_min=0.1, beta_max=20.0)
model = ss.ScoreModel(ss.MLP(2), sde, prediction="epsilon")
trained = ss.train(model, two_moons(4000), steps=400, lr=5e-3).model
sampler = ss.PredictorCorrector(
    sde, predictor=ss.ReverseDiffusion(), corrector=ss.Langevin(snr=0.16), steps=100
)
x = sampler.sample(trained, shape=(1000, 2), seed=0)
