//! `oracle`: sweeps, long runs, single cases.

fn main() {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    run::main();
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    {
        eprintln!("the oracle is an x86-64 CPU under Linux");
        std::process::exit(2);
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod run;
