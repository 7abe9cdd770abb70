"""Published rank-selection methods, one a file, all of the form select(sigmas, costs, limits) -> Allocation.

`sigmas` holds each site's singular values in descending order, `costs` is the sites' CostTable, `limits` float64 [R].
"""

from cobla_tf.baselines.cptv import select as cptv
from cobla_tf.baselines.pos_cvx import select as pos_cvx

METHODS = {"cptv": cptv, "pos_cvx": pos_cvx}
