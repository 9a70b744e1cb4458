//! The static key of a gateway's links: 32 secret bytes that never leave its data folder, and the public key by which
//! the other gateways know it (X25519, as Noise has it).

use selvedge_fabric::directory::GatewayKey;
use snow::params::DHChoice;
use snow::resolvers::{CryptoResolver, DefaultResolver};
use std::fmt;

/// A private key with its public one. Never printed.
#[derive(Clone)]
pub struct StaticKey {
    private: [u8; 32],
    public: GatewayKey,
}

impl StaticKey {
    /// The key of 32 random bytes. `None` if this program was built without X25519.
    pub fn new(private: [u8; 32]) -> Option<Self> {
        let mut curve = DefaultResolver.resolve_dh(&DHChoice::Curve25519)?;
        curve.set(&private);
        Some(Self { private, public: GatewayKey(curve.pubkey().try_into().ok()?) })
    }

    /// What this gateway announces to its site.
    pub fn public(&self) -> GatewayKey {
        self.public
    }

    /// The secret bytes, for the handshake and for the file.
    pub(crate) fn private(&self) -> &[u8; 32] {
        &self.private
    }
}

impl fmt::Debug for StaticKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StaticKey(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed from the definition in RFC 7748, section 5.
    #[test]
    fn the_public_key_is_that_of_the_curve_and_the_private_one_is_not_shown() {
        let key = StaticKey::new(std::array::from_fn(|i| i as u8)).unwrap();
        let public = "8f40c5adb68f25624ae5b214ea767a6ec94d829d3d7b5e1ad1ba6f3e2138285f";
        assert_eq!(key.public().to_string(), public);
        assert_eq!(format!("{key:?}"), "StaticKey(secret)");
    }
}
