//! Relays between two interfaces whatever is farside's, unchanged: what the device alone can do, to measure it.
//!
//! relay IF0 IF1 WORKERS ADDRESS0 ADDRESS1: ADDRESS0 lives behind IF0, ADDRESS1 behind IF1; all their TCP and UDP ports,
//! ARP, neighbour solicitations and pings are relayed. IF0 must have the hardware address of ADDRESS1's machine and the
//! other way round. Ends with its standard input, and prints what it has moved and dropped.

use farside::device::af_packet::{AfPacket, Settings, open};
use farside::device::{BATCH, Device, Span};
use farside::sys::bpf::{Programs, Sizes};
use farside::sys::pin::{allowed_cpus, pin_to};
use farside::sys::ring::Slot;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

fn main() -> std::io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [if0, if1, workers, addresses @ ..] = &args[..] else {
        eprintln!("usage: relay IF0 IF1 WORKERS ADDRESS...");
        std::process::exit(2);
    };
    let workers: usize = workers.parse().expect("a number of workers");
    let slots = std::env::var("SLOTS").map_or(512, |slots| slots.parse().expect("a number of slots"));
    let sizes = Sizes { flow_buckets: 1, max_flows: 1, workers: workers as u32 };
    let mut programs = Programs::load((1, 2), &sizes, 0, 1)?;
    let pips: Vec<_> = addresses.iter().map(|a| (a.parse().expect("an address"), 0..=65535, false)).collect();
    programs.set_pips(&pips)?;
    let settings = Settings { interfaces: vec![if0.clone(), if1.clone()], workers, slots, slot: Slot::Large };
    let (devices, _interfaces) = open(settings, &programs, None)?;
    let _ingress = [programs.attach_ingress(if0)?, programs.attach_ingress(if1)?];

    let stop = Arc::new(AtomicBool::new(false));
    let wakers: Vec<_> = devices.iter().map(AfPacket::waker).collect();
    let cpus = allowed_cpus()?;
    let threads: Vec<_> = devices
        .into_iter()
        .enumerate()
        .map(|(i, device)| {
            let (stop, cpu) = (stop.clone(), cpus[i % cpus.len()]);
            std::thread::spawn(move || {
                if workers > 1 {
                    pin_to(cpu).expect("an allowed CPU");
                }
                relay(device, &stop)
            })
        })
        .collect();
    println!("ready");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    stop.store(true, Relaxed);
    for (i, thread) in threads.into_iter().enumerate() {
        wakers[i].wake();
        let (moved, bytes, refused, drops) = thread.join().expect("a worker that ends");
        println!("worker {i}: {moved} frames, {bytes} bytes, {refused} refused, {drops} dropped by the kernel");
    }
    Ok(())
}

fn relay(mut device: AfPacket, stop: &AtomicBool) -> (u64, u64, u64, u64) {
    let (mut moved, mut bytes) = (0, 0);
    while !stop.load(Relaxed) {
        let mut idle = true;
        for port in 0..2 {
            let count = device.receive(port, BATCH);
            for i in 0..count {
                let frame = device.frame(i);
                let span = Span { start: frame.start, len: frame.len, offload: frame.offload };
                bytes += frame.len as u64;
                device.send(i, span, 1 - port);
            }
            moved += count as u64;
            idle &= count == 0;
            device.flush();
        }
        if idle {
            device.wait(Duration::from_millis(100));
        }
    }
    (moved, bytes, device.refused(), device.kernel_drops())
}
