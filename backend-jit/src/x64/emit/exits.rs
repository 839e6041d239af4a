//! Ends of blocks, and their beginnings: where code goes on, and the looks at what else there is to do.

use std::mem::offset_of;

use ir::{Cond, Op, OpCode, Operand, Width};
use x86::Gpr;

use super::{Emit, Kind};
use crate::x64::asm::{Alu, Label, Mem, RSP, Rm, Section, Shift};
use crate::x64::flags::{Compared, Desc, State};
use crate::x64::frame::{Frame, JUMPS, Jump, S0, S1, field};
