//! `sequin completions` and `sequin man`: what shells and `man` know of this program, made from the arguments themselves.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{
    Arguments,
    output::{note, print},
};

#[derive(Args)]
pub(super) struct CompletionsArguments {
    /// The shell. For bash: `sequin completions bash > ~/.local/share/bash-completion/completions/sequin`.
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Args)]
pub(super) struct ManArguments {
    /// Write the pages of all commands into this directory, such as `~/.local/share/man/man1`.
    #[arg(long)]
    dir: Option<PathBuf>,
}

pub(super) fn completions(arguments: &CompletionsArguments) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Arguments::command(), "sequin", &mut script);
    print(String::from_utf8(script)?)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn man(arguments: &ManArguments) -> anyhow::Result<ExitCode> {
    let Some(directory) = &arguments.dir else {
        let mut page = Vec::new();
        clap_mangen::Man::new(Arguments::command()).render(&mut page)?;
        print(String::from_utf8(page)?)?;
        return Ok(ExitCode::SUCCESS);
    };
    let writing = || format!("writing manual pages to {}", directory.display());
    fs::create_dir_all(directory).with_context(writing)?;
    clap_mangen::generate_to(Arguments::command(), directory).with_context(writing)?;
    note(format_args!("the manual pages are in {}", directory.display()));
    Ok(ExitCode::SUCCESS)
}
