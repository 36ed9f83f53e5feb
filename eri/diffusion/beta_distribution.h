#pragma once

namespace eri {

// The x in [0, 1] below which a Beta(a, b) variable lies with probability `p`; a, b > 0. To about 1e-15.
double beta_quantile(double p, double a, double b);

}  // namespace eri
