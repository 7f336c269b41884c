/* exp and tanh on vectors; include a vec_*.h first. tests/kernels/test_ops.c measures the errors
 * given here over all exponents. */
#ifndef PARE_SRC_KERNELS_VMATH_H
#define PARE_SRC_KERNELS_VMATH_H

/* exp(x), at most 1.1 ulp off. Results below 2^-126 become 0, above the largest float Inf; NaN
 * stays NaN. x = n ln 2 + r, |r| <= ln 2 / 2; ln 2 in two parts, exp(r) by Cephes' polynomial.
 *
 * For x up to 88.7, or NaN. */
static inline vf vf_exp_negative(vf x) {
    const vf low = vf_set(-87.3365447f);
    vf t = VF_LDEXP_ANY ? x : vf_max(low, x); /* x second: NaN goes through */
    vf n = vf_round(vf_mul(t, vf_set(1.44269504f)));
    vf r = vf_fnma(n, vf_set(0.693359375f), t);
    r = vf_fnma(n, vf_set(-2.12194440e-4f), r);
    vf p = vf_fma(vf_set(1.9875691500e-4f), r, vf_set(1.3981999507e-3f));
    p = vf_fma(p, r, vf_set(8.3334519073e-3f));
    p = vf_fma(p, r, vf_set(4.1665795894e-2f));
    p = vf_fma(p, r, vf_set(1.6666665459e-1f));
    p = vf_fma(p, r, vf_set(5.0000001201e-1f));
    vf y = vf_ldexp(vf_add(vf_fma(p, vf_mul(r, r), r), vf_set(1.0f)), n);
    return vf_select(vf_lt(x, low), vf_zero(), y);
}

static inline vf vf_exp(vf x) {
    const vf high = vf_set(88.7228394f);
    return vf_select(vf_lt(high, x), vf_set(__builtin_inff()), vf_exp_negative(vf_min(high, x)));
}

/* tanh(x), at most 2 ulp off: an odd polynomial (Cephes) for |x| < 0.625, else 1 - 2 / (exp(2|x|) +
 * 1). */
static inline vf vf_tanh(vf x) {
    vf a = vf_abs(x), z = vf_mul(x, x);
    vf p = vf_fma(vf_set(-5.70498872745e-3f), z, vf_set(2.06390887954e-2f));
    p = vf_fma(p, z, vf_set(-5.37397155531e-2f));
    p = vf_fma(p, z, vf_set(1.33314422036e-1f));
    p = vf_fma(p, z, vf_set(-3.33332819422e-1f));
    p = vf_fma(vf_mul(p, z), x, x);
    vf e = vf_exp(vf_add(a, a));
    vf big = vf_sub(vf_set(1.0f), vf_div(vf_set(2.0f), vf_add(e, vf_set(1.0f))));
    return vf_select(vf_lt(a, vf_set(0.625f)), p, vf_copysign(big, x));
}

#endif
