//! Which pod has which address of a subnet.
//!
//! Nothing is written here: an address is taken exactly as long as a pod's record says so. Addresses are
//! given in turn, so that one just released rests until the others were used, and a peer's late packets or
//! cached names do not find a stranger.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;

use crate::config::Subnet;

/// The addresses of one subnet.
#[derive(Debug)]
pub(super) struct Pool {
    subnet: Subnet,
    /// Offset in the subnet → who has it.
    taken: HashMap<u128, String>,
    /// The offset given last.
    last: u128,
}

impl Pool {
    pub(super) fn new(subnet: Subnet) -> Pool {
        let (gateway, _) = subnet.host_offsets();
        Pool { subnet, taken: HashMap::new(), last: gateway }
    }

    pub(super) fn subnet(&self) -> Subnet {
        self.subnet
    }

    /// The bridge's own address: the first a host may have.
    pub(super) fn gateway(&self) -> IpAddr {
        self.subnet.nth(self.subnet.host_offsets().0).unwrap_or(self.subnet.address())
    }

    /// Remembers an address that was given in an earlier life. One of another subnet is none of ours.
    pub(super) fn restore(&mut self, ip: IpAddr, pod: &str) {
        if let Some(offset) = self.subnet.offset(ip) {
            self.taken.insert(offset, pod.into());
            self.last = offset;
        }
    }

    /// Gives `pod` the next free address; `None` if all are taken.
    pub(super) fn take(&mut self, pod: &str) -> Option<IpAddr> {
        let (gateway, end) = self.subnet.host_offsets();
        let first = gateway + 1;
        // One more try than there are taken addresses finds a free one, if there is any.
        let tries = (self.taken.len() as u128 + 1).min(end - first + 1);
        let mut offset = self.last;
        for _ in 0..tries {
            offset = if offset >= end || offset < first { first } else { offset + 1 };
            if let Entry::Vacant(free) = self.taken.entry(offset) {
                free.insert(pod.into());
                self.last = offset;
                return self.subnet.nth(offset);
            }
        }
        None
    }

    /// Takes back what `pod` had.
    pub(super) fn release(&mut self, ip: IpAddr, pod: &str) {
        if let Some(offset) = self.subnet.offset(ip)
            && self.taken.get(&offset).is_some_and(|holder| holder == pod)
        {
            self.taken.remove(&offset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(subnet: &str) -> Pool {
        Pool::new(subnet.parse().unwrap())
    }

    #[test]
    fn addresses_are_given_in_turn_and_never_twice() {
        let mut pool = pool("10.0.0.0/29");
        assert_eq!(pool.gateway(), "10.0.0.1".parse::<IpAddr>().unwrap());
        let given: Vec<_> = (0..5).map(|n| pool.take(&n.to_string()).unwrap().to_string()).collect();
        assert_eq!(given, ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]);
        assert_eq!(pool.take("x"), None, "network, gateway or broadcast address was given");
        pool.release("10.0.0.4".parse().unwrap(), "somebody else");
        assert_eq!(pool.take("x"), None, "an address was released by a pod that does not hold it");
        pool.release("10.0.0.4".parse().unwrap(), "2");
        assert_eq!(pool.take("x"), "10.0.0.4".parse().ok());
    }

    #[test]
    fn a_released_address_rests() {
        let mut pool = pool("fd00::/64");
        let first = pool.take("a").unwrap();
        pool.release(first, "a");
        assert_ne!(pool.take("b"), Some(first));
    }

    #[test]
    fn restored_addresses_are_taken_and_foreign_ones_ignored() {
        let mut pool = pool("10.0.0.0/30");
        pool.restore("10.0.0.2".parse().unwrap(), "a");
        pool.restore("10.9.9.9".parse().unwrap(), "b");
        assert_eq!(pool.take("c"), None);
    }

    #[test]
    fn a_gateway_restored_by_mistake_is_not_given_on() {
        let mut pool = pool("fd00::/126");
        pool.restore("fd00::1".parse().unwrap(), "a");
        let given: Vec<_> = (0..3).map(|n| pool.take(&n.to_string()).map(|ip| ip.to_string())).collect();
        assert_eq!(given, [Some("fd00::2".into()), Some("fd00::3".into()), None]);
    }
}
