//! What launchers tell their processes.

use contrastive_core::{Error, Result};

/// Where a process stands among those that were started with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// This process, from 0.
    pub rank: usize,
    /// How many there are.
    pub size: usize,
    /// This process among those of its machine, from 0: the number of its GPU.
    pub local_rank: usize,
    /// The host of rank 0.
    pub address: String,
    /// The port at which rank 0 listens.
    pub port: u16,
}

/// The names under which a launcher tells rank, number of ranks, rank on the machine and number of ranks there.
struct Names {
    rank: &'static str,
    size: &'static str,
    local_rank: &'static str,
    local_size: &'static str,
}

/// The first whose `rank` is set counts: below `mpirun` in a job of Slurm, Slurm's numbers are those of `mpirun` itself.
const LAUNCHERS: [Names; 4] = [
    Names { rank: "RANK", size: "WORLD_SIZE", local_rank: "LOCAL_RANK", local_size: "LOCAL_WORLD_SIZE" },
    Names {
        rank: "OMPI_COMM_WORLD_RANK",
        size: "OMPI_COMM_WORLD_SIZE",
        local_rank: "OMPI_COMM_WORLD_LOCAL_RANK",
        local_size: "OMPI_COMM_WORLD_LOCAL_SIZE",
    },
    Names {
        rank: "PMI_RANK",
        size: "PMI_SIZE",
        local_rank: "MPI_LOCALRANKID",
        local_size: "MPI_LOCALNRANKS",
    },
    Names {
        rank: "SLURM_PROCID",
        size: "SLURM_NTASKS",
        local_rank: "SLURM_LOCALID",
        local_size: "SLURM_STEP_TASKS_PER_NODE",
    },
];

/// PyTorch's, where `MASTER_PORT` is not set.
const PORT: u16 = 29500;

impl Launch {
    /// What the environment says.
    ///
    /// # Errors
    /// [`Error::Config`] that names the variable that is missing or makes no sense.
    pub fn from_env() -> Result<Self> {
        Self::read(|name| std::env::var(name).ok())
    }

    /// What the variables say that `get` knows.
    ///
    /// # Errors
    /// As [`Launch::from_env`].
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let Some(names) = LAUNCHERS.iter().find(|names| get(names.rank).is_some()) else {
            let reason =
                "not set, nor what mpirun and srun set: start the processes with torchrun, mpirun or srun";
            return Err(Error::config("RANK", reason));
        };
        let number = |name: &'static str| -> Result<Option<usize>> {
            let parsed = |text: String| {
                let bad = |_| Error::config(name, format!("`{text}` is not a number"));
                text.trim().parse().map_err(bad)
            };
            get(name).map(parsed).transpose()
        };
        let needed = |name| number(name)?.ok_or_else(|| Error::config(name, "not set"));
        let (rank, size) = (needed(names.rank)?, needed(names.size)?);
        if rank >= size {
            return Err(Error::config(names.rank, format!("{rank} is no rank of {size} ({})", names.size)));
        }
        let local_rank = number(names.local_rank)?.unwrap_or(rank);
        let one_machine = size == 1 || number(names.local_size).ok().flatten() == Some(size);
        let address = match get("MASTER_ADDR").filter(|address| !address.is_empty()) {
            Some(address) => address,
            None if one_machine => "127.0.0.1".to_string(),
            None => get("SLURM_STEP_NODELIST")
                .or_else(|| get("SLURM_JOB_NODELIST"))
                .map(|nodes| first_node(&nodes))
                .ok_or_else(|| Error::config("MASTER_ADDR", "not set: it is the host of rank 0"))?,
        };
        let port = match get("MASTER_PORT") {
            Some(text) => {
                let bad = |_| Error::config("MASTER_PORT", format!("`{text}` is not a port"));
                text.trim().parse().map_err(bad)?
            }
            None => PORT,
        };
        // torchrun's own store listens at the port that it names.
        let taken = get("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|own| own.eq_ignore_ascii_case("true"));
        let port = if taken { port.checked_add(1).unwrap_or(PORT) } else { port };
        Ok(Self { rank, size, local_rank, address, port })
    }

    /// Whether a launcher started this process together with others.
    pub fn is_one_of_many() -> bool {
        Self::from_env().is_ok_and(|launch| launch.size > 1)
    }
}

/// `gpu03` of `gpu[03-06,09],login1`: Slurm's first node, where its first task is.
fn first_node(nodes: &str) -> String {
    match nodes.find(['[', ',']) {
        Some(at) if nodes[at..].starts_with('[') => {
            let first = nodes[at + 1..].split(['-', ',', ']']).next().unwrap_or_default();
            format!("{}{first}", &nodes[..at])
        }
        Some(at) => nodes[..at].to_string(),
        None => nodes.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(set: &[(&str, &str)]) -> Result<Launch> {
        Launch::read(|name| set.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string()))
    }

    fn refusal(set: &[(&str, &str)]) -> String {
        read(set).map_or_else(|e| e.to_string(), |launch| format!("{launch:?}"))
    }

    #[test]
    fn every_launcher_is_understood() -> Result<()> {
        let torch = [
            ("RANK", "5"),
            ("WORLD_SIZE", "8"),
            ("LOCAL_RANK", "1"),
            ("MASTER_ADDR", "head"),
            ("MASTER_PORT", "4000"),
        ];
        let expected =
            |address: &str, port| Launch { rank: 5, size: 8, local_rank: 1, address: address.into(), port };
        assert_eq!(read(&torch)?, expected("head", 4000));
        let store: Vec<_> = torch.iter().copied().chain([("TORCHELASTIC_USE_AGENT_STORE", "True")]).collect();
        assert_eq!(read(&store)?, expected("head", 4001));
        // mpirun inside a job of Slurm, on one machine.
        let mpi = [
            ("SLURM_PROCID", "0"),
            ("SLURM_NTASKS", "1"),
            ("OMPI_COMM_WORLD_RANK", "5"),
            ("OMPI_COMM_WORLD_SIZE", "8"),
            ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
            ("OMPI_COMM_WORLD_LOCAL_SIZE", "8"),
        ];
        assert_eq!(read(&mpi)?, expected("127.0.0.1", PORT));
        let slurm = [
            ("SLURM_PROCID", "5"),
            ("SLURM_NTASKS", "8"),
            ("SLURM_LOCALID", "1"),
            ("SLURM_STEP_TASKS_PER_NODE", "4(x2)"),
            ("SLURM_STEP_NODELIST", "gpu[03-04]"),
        ];
        assert_eq!(read(&slurm)?, expected("gpu03", PORT));
        Ok(())
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        assert!(refusal(&[]).contains("config key `RANK`: not set"));
        assert!(refusal(&[("RANK", "0")]).contains("config key `WORLD_SIZE`: not set"));
        assert!(refusal(&[("RANK", "x"), ("WORLD_SIZE", "2")]).contains("`RANK`: `x` is not a number"));
        assert!(refusal(&[("RANK", "2"), ("WORLD_SIZE", "2")]).contains("2 is no rank of 2"));
        let two = [("RANK", "1"), ("WORLD_SIZE", "2")];
        assert!(refusal(&two).contains("`MASTER_ADDR`: not set"));
        let port = [two[0], two[1], ("MASTER_ADDR", "a"), ("MASTER_PORT", "70000")];
        assert!(refusal(&port).contains("`MASTER_PORT`: `70000` is not a port"));
    }

    #[test]
    fn the_first_node_is_found_in_slurms_lists() {
        for (nodes, first) in [
            ("gpu[03-06,09],login1", "gpu03"),
            ("gpu[7]", "gpu7"),
            ("gpu[1,5]", "gpu1"),
            ("a,b[1-2]", "a"),
            ("a-1", "a-1"),
        ] {
            assert_eq!(first_node(nodes), first, "{nodes}");
        }
    }
}
