//! Turns a log that was read into one that can be written: makes durable what was above the mark, and removes what is
//! void.

use super::damage::LogDamage;
use super::disk::{Disk, DiskFile};
use super::error::LogError;
use super::form::{self, HEADER_BYTES, Header, LogIdentity};
use super::found::{FoundLog, MAKING_NAME, Rewrite, SegmentInfo, States, Tail, states_bytes};
use super::segment;
use selvedge_fabric::record::Position;

/// The state from which the log continues.
pub struct RecoveredLog {
    pub damage: LogDamage,
    /// In order; the last one is the active segment.
    pub segments: Vec<SegmentInfo>,
    pub states: States,
    pub active: Box<dyn DiskFile>,
    /// Where the next unit goes; everything below is durable.
    pub end: Position,
    pub next_sequence: u64,
}

impl FoundLog {
    /// Makes the log writable. When this returns, everything that was read is durable.
    pub fn begin(
        mut self,
        disk: &dyn Disk,
        identity: LogIdentity,
        segment_bytes: u64,
    ) -> Result<RecoveredLog, LogError> {
        for name in &self.removals {
            disk.remove(name).map_err(|e| LogError::io("removing", &disk.describe(name), e))?;
        }
        if !self.removals.is_empty() {
            // The removal must be durable before a new segment is made: on a full disk the new one uses this room.
            disk.sync_folder().map_err(|e| LogError::io("syncing", &disk.describe(""), e))?;
        }
        for (i, to) in std::mem::take(&mut self.cuts) {
            if let Some(info) = self.infos.get_mut(i) {
                cut_void(disk, info, to)?;
            }
        }
        let (mut infos, states) = (self.infos, self.states);
        let (active, end, next_sequence) = match self.tail {
            Tail::Absent(header) => {
                let number = header.number;
                let active = make_segment(disk, &identity, header, segment_bytes, &[])?;
                infos.push(SegmentInfo {
                    number,
                    bytes: segment_bytes,
                    header: true,
                    ..SegmentInfo::default()
                });
                (active, Position { segment: number, offset: HEADER_BYTES }, 1)
            }
            Tail::GoOn { end, next_sequence } => {
                let name = segment::name_of(end.segment);
                let active =
                    disk.open(&name).map_err(|e| LogError::io("opening", &disk.describe(&name), e))?;
                (active, end, next_sequence)
            }
            Tail::Rewrite(rewrite) => {
                let (end, next_sequence) = (rewrite.end, rewrite.next_sequence);
                (rewrite.make(disk, &identity, segment_bytes, &mut infos, &states)?, end, next_sequence)
            }
        };
        Ok(RecoveredLog { damage: self.damage, segments: infos, states, active, end, next_sequence })
    }
}

impl Rewrite {
    fn make(
        self,
        disk: &dyn Disk,
        identity: &LogIdentity,
        segment_bytes: u64,
        infos: &mut Vec<SegmentInfo>,
        states: &States,
    ) -> Result<Box<dyn DiskFile>, LogError> {
        let Self { header, replaces, start, used, mut info, content, end, .. } = self;
        // Room for a seal behind the rewritten units, whatever the segment size is set to now.
        let seal = form::unit_bytes(info.groups.len(), 0) as u64;
        let least = u64::from(end.offset) + seal;
        info.bytes = segment_bytes.max(least);
        let mut made = make_segment(disk, identity, header, info.bytes, &content);
        if made.as_ref().is_err_and(LogError::is_full) {
            // There must be room to start and to trim: the old tail gives back its unused bytes (the log had reserved
            // some there), and the new segment holds little more than the state records that trimming may have to carry
            // over.
            if let Some(old) = infos.last_mut() {
                cut_void(disk, old, used)?;
            }
            for bytes in [least + states_bytes(states), least] {
                if made.as_ref().is_err_and(LogError::is_full) {
                    info.bytes = bytes;
                    made = make_segment(disk, identity, header, bytes, &content);
                }
            }
        }
        let active = made?;
        if replaces {
            infos.pop();
        } else if let Some(old) = infos.last_mut() {
            cut_void(disk, old, start)?;
        }
        infos.push(info);
        Ok(active)
    }
}

/// Makes a segment: claims its room, writes `content` behind its header, syncs the file, and only then gives it its
/// name.
pub fn make_segment(
    disk: &dyn Disk,
    identity: &LogIdentity,
    header: Header,
    bytes: u64,
    content: &[u8],
) -> Result<Box<dyn DiskFile>, LogError> {
    let name = segment::name_of(header.number);
    let failed = |doing| {
        let shown = disk.describe(&name);
        move |e| LogError::io(doing, &shown, e)
    };
    let made = (|| {
        let mut file = disk.create(MAKING_NAME).map_err(failed("creating"))?;
        file.preallocate(bytes).map_err(failed("preallocating"))?;
        let mut head = header.encode(identity);
        head.extend_from_slice(content);
        file.write_at(0, &head).map_err(failed("writing"))?;
        Ok(file)
    })();
    let mut file = match made {
        Ok(file) => file,
        Err(why) => {
            // The room claimed so far would keep others from writing. If the removal fails too, the next opening does
            // it.
            let _ = disk.remove(MAKING_NAME);
            return Err(why);
        }
    };
    let unsure = |doing| {
        let shown = disk.describe(&name);
        move |e: std::io::Error| LogError::Io { doing, name: shown.clone(), source: e }
    };
    file.sync().map_err(unsure("syncing"))?;
    disk.rename(MAKING_NAME, &name).map_err(unsure("naming"))?;
    disk.sync_folder().map_err(unsure("syncing the folder of"))?;
    Ok(file)
}

/// Frees the bytes of a segment beyond the end that the next segment's header gives: they are void.
fn cut_void(disk: &dyn Disk, info: &mut SegmentInfo, end: u32) -> Result<(), LogError> {
    if info.bytes <= u64::from(end) {
        return Ok(());
    }
    let name = segment::name_of(info.number);
    let cut = || {
        let mut file = disk.open(&name)?;
        file.truncate(u64::from(end))?;
        file.sync()
    };
    cut().map_err(|e| LogError::io("cutting", &disk.describe(&name), e))?;
    info.bytes = u64::from(end);
    Ok(())
}
