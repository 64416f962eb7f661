import sdescore as ss
from sdescore.datasets import two_moons

data = two_moons(4000)  # (4000, 2)
sde = ss.VPSDE()  # DDPM's; ss.VESDE() is NCSN's
model = ss.ScoreModel(ss.MLP(2, hidden=64), sde)
trained = ss.train(model, data, steps=3200, batch_size=512, lr=7e-3).model
sampler = ss.PredictorCorrector(sde, predictor=ss.Ancestral(), steps=50)
x = sampler.sample(trained, shape=(1000, 2), seed=0)
