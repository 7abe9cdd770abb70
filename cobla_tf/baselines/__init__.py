"""Published rank-selection methods, one a file, all of the form select(sigmas, costs, limits) -> Allocation.

`sigmas` holds each site's singular values in descending order, `costs` is the sites' CostTable, `limits` float64 [R].
Some need more than that, by keyword: see `Method.needs`.
"""

from cobla_tf.baselines.alds import select as alds
from cobla_tf.baselines.cptv import select as cptv
from cobla_tf.baselines.energy import select as energy
from cobla_tf.baselines.greedy_accuracy import select as greedy_accuracy
from cobla_tf.baselines.method import Method
from cobla_tf.baselines.pos_cvx import select as pos_cvx
from cobla_tf.baselines.pos_greedy import select as pos_greedy
from cobla_tf.baselines.r_vbmf import select as r_vbmf
from cobla_tf.baselines.signal_recovery import select as signal_recovery
from cobla_tf.baselines.uniform import select as uniform

RIVALS = {
    "cptv": Method(cptv, "Tai et al. 2016; COBLA paper, Eq. 10"),
    "pos_greedy": Method(pos_greedy, "Zhang et al. 2016, section 2.4; COBLA paper, Eq. 11"),
    "pos_cvx": Method(pos_cvx, "COBLA paper, Eq. 12"),
    "r_vbmf": Method(r_vbmf, "Nakajima et al. 2013; COBLA paper, section 4", ("shapes",), budgeted=False),
    "signal_recovery": Method(signal_recovery, "Gavish and Donoho 2014, 2.858; COBLA paper, section 4", budgeted=False),
    "signal_recovery_exact": Method(
        signal_recovery, "Gavish and Donoho 2014, omega(beta)", ("shapes",), budgeted=False
    ),
    "uniform": Method(uniform, "Denton et al. 2014"),
    "energy": Method(energy, "Alvarez and Salzmann 2017"),
    "alds": Method(alds, "Liebenwein et al. 2021, section 2.2"),
    "greedy_accuracy": Method(greedy_accuracy, "AIMET; Kuzmin et al. 2019", ("evaluate",)),
}
"""Every method that COBLA is compared with, by the name that the command line knows it by."""
