//! INS and OUTS: one element at a time, since every port access counts.

use x86::{Exception, Gpr, Seg};

use super::Job;
use crate::Vcpu;
use crate::ports::{check_io, read_port, write_port};

impl Job {
    fn port(v: &Vcpu) -> u16 {
        v.st.gpr[Gpr::Rdx as usize] as u16
    }

    /// One INS. The memory is probed first, so that a fault doesn't lose what the port gave.
    pub(super) fn ins(&self, v: &mut Vcpu) -> Result<(u64, bool), Exception> {
        let port = Self::port(v);
        check_io(v, port, self.size)?;
        let to = self.lin(v, Seg::Es, Gpr::Rdi, true)?;
        v.probe_write(to, self.size)?;
        let value = read_port(v, port, self.size as u8);
        v.write(to, self.size as u32, value)?;
        self.advance(v, Gpr::Rdi, 1);
        Ok((1, false))
    }

    /// One OUTS.
    pub(super) fn outs(&self, v: &mut Vcpu) -> Result<(u64, bool), Exception> {
        let port = Self::port(v);
        check_io(v, port, self.size)?;
        let from = self.lin(v, self.source, Gpr::Rsi, false)?;
        let value = v.read(from, self.size as u32)?;
        write_port(v, port, self.size as u8, value);
        self.advance(v, Gpr::Rsi, 1);
        Ok((1, false))
    }
}
