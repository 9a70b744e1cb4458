//! The connections between gateways: each gateway reaches each other one through a relay in this process, which can
//! hold back the bytes of one direction, the other, or both. As in a network that is cut, no bytes within a connection
//! are lost, the end of a connection does not pass a cut, and bytes that were sent before arrive, late, when the cut is
//! mended.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long a relay waits before it checks whether the wire is cut, or the run is over.
const LOOK: Duration = Duration::from_millis(5);

/// All wires of a site.
pub struct Wires {
    /// `cut[from][to]`: nothing passes in that direction.
    cut: Vec<Vec<AtomicBool>>,
    over: AtomicBool,
}

impl Wires {
    /// The wires and the listeners of the relays, `[from][to]`, which [`Wires::serve`] serves.
    pub fn new(gateways: usize) -> (Arc<Self>, Vec<Vec<TcpListener>>) {
        let row = |_| (0..gateways).map(|_| AtomicBool::new(false)).collect();
        let listeners = (0..gateways)
            .map(|_| (0..gateways).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect())
            .collect();
        let cut = (0..gateways).map(row).collect();
        (Arc::new(Self { cut, over: AtomicBool::new(false) }), listeners)
    }

    /// Relays what `from` sends to `to`, which listens at this port.
    pub fn serve(self: &Arc<Self>, listener: TcpListener, from: usize, to: usize, port: u16) {
        let wires = self.clone();
        listener.set_nonblocking(true).unwrap();
        std::thread::spawn(move || {
            while !wires.over.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((near, _)) => wires.join(near, from, to, port),
                    Err(_) => std::thread::sleep(LOOK),
                }
            }
        });
    }

    fn join(self: &Arc<Self>, near: TcpStream, from: usize, to: usize, port: u16) {
        let Ok(far) = TcpStream::connect(("127.0.0.1", port)) else { return };
        let both = near.try_clone().and_then(|near| far.try_clone().map(|far| (near, far)));
        let Ok((near_too, far_too)) = both else { return };
        for (mut source, mut sink, a, b) in [(near, far, from, to), (far_too, near_too, to, from)] {
            let wires = self.clone();
            std::thread::spawn(move || {
                let _ = wires.carry(&mut source, &mut sink, a, b); // ends when either side does
                let _ = sink.shutdown(Shutdown::Write);
            });
        }
    }

    fn carry(&self, source: &mut TcpStream, sink: &mut TcpStream, a: usize, b: usize) -> std::io::Result<()> {
        source.set_nonblocking(false)?;
        source.set_read_timeout(Some(LOOK))?;
        sink.set_nodelay(true)?;
        let mut bytes = vec![0; 64 * 1024];
        loop {
            let read = match source.read(&mut bytes) {
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
                read => Some(read),
            };
            while self.cut[a][b].load(Ordering::SeqCst) && !self.over.load(Ordering::Relaxed) {
                std::thread::sleep(LOOK);
            }
            if self.over.load(Ordering::Relaxed) {
                return Ok(());
            }
            match read {
                None => {}
                Some(Ok(0)) => return Ok(()),
                Some(Ok(n)) => sink.write_all(&bytes[..n])?,
                Some(Err(e)) => return Err(e),
            }
        }
    }

    /// From now on nothing passes from one to the other.
    pub fn cut(&self, from: usize, to: usize) {
        self.cut[from][to].store(true, Ordering::SeqCst);
    }

    /// Mends all cuts.
    pub fn mend(&self) {
        self.cut.iter().flatten().for_each(|cut| cut.store(false, Ordering::SeqCst));
    }
}

impl Wires {
    /// Ends all relays.
    pub fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }
}
