//! v1's `cpu.shares` as v2's `cpu.weight`.

/// Converts shares (2–262144, 1024 usual) to a weight (1–10000, 100 usual).
///
/// The curve goes through all three pairs, so that a pod that asks for one CPU weighs as much as a
/// default group: `10^((l² + 125·l)/612 − 7/34)` with `l = log₂(shares)`, rounded up. runc, crun and
/// the kubelet use the same one, and the kubelet compares what it reads back.
#[must_use]
pub fn weight_from_shares(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        shares => {
            #[allow(clippy::cast_precision_loss)] // below 2^18
            let l = (shares as f64).log2();
            let exponent = (l * l + 125.0 * l) / 612.0 - 7.0 / 34.0;
            // The pair (1024, 100) is exact in theory; a rounding error must not make it 101.
            let weight = (10f64.powf(exponent) - 1e-9).ceil();
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // within 1..=10000
            let weight = weight as u64;
            weight
        }
    }
}
