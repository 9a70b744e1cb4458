//! A data folder that joins a running site: what it asks with, and what the site answered. It is in `admission.json`:
//! 1. Before the site is asked, the folder's incarnation is on disk, and its key in `link-key.json`. So a box that is
//!    killed before it hears the answer asks again as the same box, and gets the id that it was given.
//! 2. The answer is on disk before the identity is written, whose presence means that the folder is a gateway's.
//!
//! The answer stays: it says how the site began, which later starts need, and which gateways there were, for a start
//! before the gateway has its own copy of the directory.

use crate::identity::{
    self, Expected, IDENTITY_VERSION, IdentityError, damaged, find_key, lock_new, make_key, number,
    random_incarnation, write_identity,
};
use crate::settings::membership_hash;
use crate::static_key::StaticKey;
use selvedge_fabric::directory::{FirstGateway, GatewayKey, Genesis};
use selvedge_fabric::link::{Incarnation, JoinAnswer, KnownPeer};
use selvedge_types::ids::{GatewayId, SiteId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

const ADMISSION: &str = "admission.json";

#[derive(Serialize, Deserialize)]
struct AdmissionFile {
    format: u32,
    incarnation: String,
    /// Absent until the site has answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    admitted: Option<AdmittedEntry>,
}

#[derive(Serialize, Deserialize)]
struct AdmittedEntry {
    gateway: u16,
    #[serde(default)]
    witness: bool,
    shards: u16,
    replicas: usize,
    first: Vec<FirstEntry>,
    peers: BTreeMap<u16, KnownEntry>,
}

#[derive(Serialize, Deserialize)]
struct FirstEntry {
    id: u16,
    weight: u32,
    peer: String,
}

#[derive(Serialize, Deserialize)]
struct KnownEntry {
    address: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    incarnation: Option<String>,
}

/// A locked data folder that is no gateway's yet.
#[derive(Debug)]
pub struct NewBox {
    dir: PathBuf,
    incarnation: Incarnation,
    key: StaticKey,
    _lock: File,
}

impl NewBox {
    /// Prepares a data folder to ask with, or finds one that was prepared.
    ///
    /// # Errors
    /// When the folder is a gateway's already, is in use, can't be written, or was written by another release.
    pub fn open(dir: &Path) -> Result<Self, IdentityError> {
        let lock = lock_new(dir)?;
        let key = match find_key(dir)? {
            Some(key) => key,
            None => make_key(dir)?,
        };
        let incarnation = if dir.join(ADMISSION).exists() {
            Incarnation(number(dir, ADMISSION, &read(dir)?.incarnation)?)
        } else {
            let incarnation = random_incarnation()?;
            let file = AdmissionFile {
                format: IDENTITY_VERSION,
                incarnation: incarnation.to_string(),
                admitted: None,
            };
            identity::write(dir, ADMISSION, &file)?;
            incarnation
        };
        Ok(Self { dir: dir.into(), incarnation, key, _lock: lock })
    }

    /// The incarnation of the folder.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// The key of the links that this gateway will have.
    pub(crate) fn static_key(&self) -> &StaticKey {
        &self.key
    }

    /// Makes the folder that of the gateway as which the site admitted it.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn admitted(self, site: &SiteId, answer: JoinAnswer) -> Result<KeptAdmission, IdentityError> {
        let JoinAnswer { gateway, is_witness, genesis, peers } = answer;
        let admission = KeptAdmission { gateway, is_witness, genesis, peers: peers.into_iter().collect() };
        let file = AdmissionFile {
            format: IDENTITY_VERSION,
            incarnation: self.incarnation.to_string(),
            admitted: Some(admission.entry()),
        };
        identity::write(&self.dir, ADMISSION, &file)?;
        write_identity(&self.dir, &admission.expected(site), self.incarnation)?;
        Ok(admission)
    }
}

/// What the site told a gateway that it has admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptAdmission {
    /// The gateway's number, for good.
    pub gateway: GatewayId,
    /// Whether the gateway is a witness, for good.
    pub is_witness: bool,
    /// How the site began.
    pub genesis: Genesis,
    /// The gateways that the site had then.
    pub peers: BTreeMap<GatewayId, KnownPeer>,
}

impl KeptAdmission {
    /// The admission in the folder of a gateway.
    ///
    /// # Errors
    /// When the gateway did not join, or the file can't be read.
    pub fn find(dir: &Path) -> Result<Self, IdentityError> {
        if !dir.join(ADMISSION).exists() {
            return Err(IdentityError::Founder(dir.into()));
        }
        let entry = read(dir)?.admitted.ok_or_else(|| damaged(dir, ADMISSION, "holds no admission"))?;
        let wrong = |why: &str| damaged(dir, ADMISSION, why);
        let known = |(id, entry): (u16, KnownEntry)| {
            let key = entry.key.map(|text| {
                identity::bytes(&text)
                    .map(GatewayKey)
                    .ok_or_else(|| wrong("a key is not 64 hexadecimal digits"))
            });
            let incarnation = entry.incarnation.map(|text| number(dir, ADMISSION, &text).map(Incarnation));
            let (key, incarnation) = (key.transpose()?, incarnation.transpose()?);
            Ok((GatewayId(id), KnownPeer { address: entry.address, key, incarnation }))
        };
        let first = |g: FirstEntry| FirstGateway { id: GatewayId(g.id), weight: g.weight, peer: g.peer };
        let genesis = Genesis {
            shards: entry.shards,
            replicas: entry.replicas,
            gateways: entry.first.into_iter().map(first).collect(),
        };
        genesis.ring().map_err(|e| wrong(&e.to_string()))?;
        let peers = entry.peers.into_iter().map(known).collect::<Result<_, IdentityError>>()?;
        Ok(Self { gateway: GatewayId(entry.gateway), is_witness: entry.witness, genesis, peers })
    }

    /// The facts that the folder's identity must have.
    pub fn expected(&self, site: &SiteId) -> Expected {
        let membership = membership_hash(site, &self.genesis);
        Expected { site: site.clone(), gateway: self.gateway, membership }
    }

    fn entry(&self) -> AdmittedEntry {
        let known = |(id, peer): (&GatewayId, &KnownPeer)| {
            let (key, incarnation) =
                (peer.key.map(|k| k.to_string()), peer.incarnation.map(|i| i.to_string()));
            (id.0, KnownEntry { address: peer.address.clone(), key, incarnation })
        };
        let first = |g: &FirstGateway| FirstEntry { id: g.id.0, weight: g.weight, peer: g.peer.clone() };
        AdmittedEntry {
            gateway: self.gateway.0,
            witness: self.is_witness,
            shards: self.genesis.shards,
            replicas: self.genesis.replicas,
            first: self.genesis.gateways.iter().map(first).collect(),
            peers: self.peers.iter().map(known).collect(),
        }
    }
}

fn read(dir: &Path) -> Result<AdmissionFile, IdentityError> {
    identity::read(dir, ADMISSION)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;

    fn answer() -> JoinAnswer {
        let first = |id| FirstGateway { id: GatewayId(id), weight: 1, peer: format!("box-{id}:7081") };
        let known = KnownPeer {
            address: "box-3:7081".into(),
            key: Some(GatewayKey([7; 32])),
            incarnation: Some(Incarnation(9)),
        };
        JoinAnswer {
            gateway: GatewayId(6),
            is_witness: true,
            genesis: Genesis { shards: 8, replicas: 3, gateways: [1, 2, 3].map(first).into() },
            peers: vec![(GatewayId(3), known), (GatewayId(5), KnownPeer::at("box-5:7081".into()))],
        }
    }

    #[test]
    fn a_box_asks_as_the_same_one_until_it_is_admitted() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("data");
        let first = NewBox::open(&dir).unwrap();
        assert!(matches!(NewBox::open(&dir), Err(IdentityError::InUse(_))));
        let (incarnation, key) = (first.incarnation(), first.static_key().public());
        drop(first);
        let again = NewBox::open(&dir).unwrap();
        assert_eq!((again.incarnation(), again.static_key().public()), (incarnation, key));
        assert!(!Identity::exists(&dir), "it is no gateway's yet");

        let site = SiteId::new("plant-7".to_string()).unwrap();
        let admission = again.admitted(&site, answer()).unwrap();
        assert!(matches!(NewBox::open(&dir), Err(IdentityError::Exists(_))));
        assert_eq!(KeptAdmission::find(&dir).unwrap(), admission);
        assert_eq!((admission.gateway, admission.peers.len()), (GatewayId(6), 2));
        let identity = Identity::open(&dir, &admission.expected(&site)).unwrap();
        assert_eq!((identity.incarnation(), identity.public_key()), (incarnation, key));
        assert_eq!(identity.gateway(), GatewayId(6));
    }

    #[test]
    fn a_box_that_was_killed_after_the_answer_is_still_the_same_one() {
        let dir = tempfile::tempdir().unwrap();
        let candidate = NewBox::open(dir.path()).unwrap();
        let incarnation = candidate.incarnation();
        let site = SiteId::new("plant-7".to_string()).unwrap();
        let admission = candidate.admitted(&site, answer()).unwrap();
        // As the process left it that was killed before the identity was written.
        std::fs::remove_file(dir.path().join("identity.json")).unwrap();
        let again = NewBox::open(dir.path()).unwrap();
        assert_eq!(again.incarnation(), incarnation);
        assert_eq!(again.admitted(&site, answer()).unwrap(), admission);
        Identity::open(dir.path(), &admission.expected(&site)).unwrap();
    }

    #[test]
    fn the_folder_of_a_first_gateway_holds_no_admission_and_a_damaged_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let said = KeptAdmission::find(dir.path()).unwrap_err().to_string();
        assert!(said.contains("join_token_file"), "{said}");
        let site = SiteId::new("plant-7".to_string()).unwrap();
        drop(NewBox::open(dir.path()).unwrap().admitted(&site, answer()).unwrap());
        let path = dir.path().join(ADMISSION);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("\"format\": 1", "\"format\": 2")).unwrap();
        let said = KeptAdmission::find(dir.path()).unwrap_err().to_string();
        assert!(said.contains("format version 2") && said.contains("newer"), "{said}");
        for (from, to, says) in [
            ("\"shards\": 8", "\"shards\": 0", "shards"),
            (&"07".repeat(32), "07", "a key is not 64"),
            ("\"gateway\": 6", "\"gateway\": \"six\"", "nothing was changed"),
        ] {
            assert!(text.contains(from), "{from}: {text}");
            std::fs::write(&path, text.replace(from, to)).unwrap();
            let said = KeptAdmission::find(dir.path()).unwrap_err().to_string();
            assert!(said.contains(says) && said.contains(ADMISSION), "{said}");
        }
    }
}
