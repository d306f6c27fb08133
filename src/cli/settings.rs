//! Flags over configuration over environment over defaults: the one place where they are laid on each other.
//!
//! The environment and the file system are asked through [`Surroundings`], so that a test can be any machine.

use std::path::{Path, PathBuf};

use forebay::net::service_manager;

use super::{Failure, GlobalArguments};
use crate::config::Config;

/// Where an installed forebay keeps its data.
pub const INSTALLED_DATA_DIR: &str = "/var/lib/forebay";
/// Where a quickstart keeps its data, in the working directory.
pub const QUICKSTART_DATA_DIR: &str = "./forebay-data";
/// Where an installed forebay is configured.
pub const INSTALLED_CONFIG_DIR: &str = "/etc/forebay";
/// The configuration's name in that directory.
pub const CONFIG_FILE: &str = "forebay.toml";

/// What the command finds around it.
pub struct Surroundings {
    /// The state directory the service manager gives us.
    pub state_directory: Option<PathBuf>,
    /// The configuration directory the service manager gives us.
    pub configuration_directory: Option<PathBuf>,
    /// Whether something is there, readable or not.
    pub exists: fn(&Path) -> bool,
}

impl Surroundings {
    /// Reads them from the environment.
    pub fn of_this_process() -> Self {
        // Several directories come separated by colons; ours is the first.
        let first = |list: std::ffi::OsString| std::env::split_paths(&list).next();
        Self {
            state_directory: service_manager::state_directory(),
            configuration_directory: std::env::var_os("CONFIGURATION_DIRECTORY").and_then(first),
            // What we may not look at is there: opening it then says what is wrong.
            exists: |path| !matches!(path.try_exists(), Ok(false)),
        }
    }

    /// The configuration that holds: of `--config`, else the installed one if there is one, else an empty one.
    ///
    /// # Errors
    /// If it cannot be read or is wrong.
    pub fn config(&self, global: &GlobalArguments) -> Result<Config, Failure> {
        match self.config_file(global) {
            Some(file) => Ok(Config::load(&file)?),
            None => Ok(Config::default()),
        }
    }

    /// The configuration file that holds, if any.
    pub fn config_file(&self, global: &GlobalArguments) -> Option<PathBuf> {
        let installed = || {
            let given = self.configuration_directory.as_deref();
            let directories = given.into_iter().chain([Path::new(INSTALLED_CONFIG_DIR)]);
            directories.map(|directory| directory.join(CONFIG_FILE)).find(|file| (self.exists)(file))
        };
        global.config.clone().or_else(installed)
    }

    /// The data directory that holds: of `--data-dir`, of the configuration, of the service manager, else one of the
    /// usual two if it is there.
    ///
    /// # Errors
    /// If none of them names or is one.
    pub fn data_dir(&self, global: &GlobalArguments, config: &Config) -> Result<PathBuf, Failure> {
        if let Some(named) = self.named_data_dir(global, config) {
            return Ok(named);
        }
        let usual = [INSTALLED_DATA_DIR, QUICKSTART_DATA_DIR].map(PathBuf::from);
        usual.into_iter().find(|directory| (self.exists)(directory)).ok_or_else(|| {
            Failure::Usage(format!(
                "no data directory: none is named by --data-dir, by data_dir in the configuration or by \
                 $STATE_DIRECTORY, and neither {INSTALLED_DATA_DIR} nor {QUICKSTART_DATA_DIR} is there; \
                 give --data-dir DIR, or let `forebay quickstart` make one"
            ))
        })
    }

    /// The data directory of a quickstart: as named, else one in the working directory.
    pub fn quickstart_data_dir(&self, global: &GlobalArguments, config: &Config) -> PathBuf {
        self.named_data_dir(global, config).unwrap_or_else(|| QUICKSTART_DATA_DIR.into())
    }

    fn named_data_dir(&self, global: &GlobalArguments, config: &Config) -> Option<PathBuf> {
        let named = global.data_dir.as_ref().or(config.data_dir.as_ref()).or(self.state_directory.as_ref());
        named.cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Surroundings =
        Surroundings { state_directory: None, configuration_directory: None, exists: |_| false };

    fn flag(data_dir: &str) -> GlobalArguments {
        GlobalArguments { data_dir: Some(data_dir.into()), config: None }
    }

    fn file(data_dir: &str) -> Config {
        Config { data_dir: Some(data_dir.into()), ..Config::default() }
    }

    fn data_dir(surroundings: &Surroundings, global: &GlobalArguments, config: &Config) -> PathBuf {
        surroundings.data_dir(global, config).expect("a data directory")
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_service_manager() {
        let all = Surroundings { state_directory: Some("/state".into()), exists: |_| true, ..NOTHING };
        let no_flag = GlobalArguments::default();
        assert_eq!(data_dir(&all, &flag("/flag"), &file("/file")), Path::new("/flag"));
        assert_eq!(data_dir(&all, &no_flag, &file("/file")), Path::new("/file"));
        assert_eq!(data_dir(&all, &no_flag, &Config::default()), Path::new("/state"));
    }

    #[test]
    fn an_installed_data_directory_wins_over_one_of_a_quickstart() {
        let both = Surroundings { exists: |_| true, ..NOTHING };
        let quickstart = Surroundings { exists: |path| path == Path::new(QUICKSTART_DATA_DIR), ..NOTHING };
        let (global, config) = (GlobalArguments::default(), Config::default());
        assert_eq!(data_dir(&both, &global, &config), Path::new(INSTALLED_DATA_DIR));
        assert_eq!(data_dir(&quickstart, &global, &config), Path::new(QUICKSTART_DATA_DIR));
    }

    #[test]
    fn without_any_data_directory_the_error_names_what_was_tried() {
        let error = NOTHING.data_dir(&GlobalArguments::default(), &Config::default());
        let Err(Failure::Usage(message)) = error else { panic!("{error:?}") };
        for tried in ["--data-dir", "data_dir", "$STATE_DIRECTORY", INSTALLED_DATA_DIR, QUICKSTART_DATA_DIR] {
            assert!(message.contains(tried), "{tried}");
        }
    }

    #[test]
    fn a_quickstart_falls_back_on_the_working_directory_and_on_nothing_else() {
        let both = Surroundings { exists: |_| true, ..NOTHING };
        let (global, config) = (GlobalArguments::default(), Config::default());
        assert_eq!(both.quickstart_data_dir(&global, &config), Path::new(QUICKSTART_DATA_DIR));
        assert_eq!(both.quickstart_data_dir(&flag("/flag"), &file("/file")), Path::new("/flag"));
    }

    #[test]
    fn the_configuration_is_the_given_file_else_the_service_managers_else_the_installed_one() {
        let all =
            Surroundings { configuration_directory: Some("/run/conf".into()), exists: |_| true, ..NOTHING };
        let given = GlobalArguments { config: Some("my.toml".into()), data_dir: None };
        let global = GlobalArguments::default();
        assert_eq!(all.config_file(&given), Some("my.toml".into()));
        assert_eq!(all.config_file(&global), Some("/run/conf/forebay.toml".into()));
        let only_etc = Surroundings { exists: |path| path.starts_with("/etc"), ..all };
        assert_eq!(only_etc.config_file(&global), Some("/etc/forebay/forebay.toml".into()));
        assert_eq!(NOTHING.config_file(&global), None);
    }

    #[test]
    fn a_given_configuration_that_is_missing_is_an_error_but_no_configuration_is_none() {
        let given = GlobalArguments { config: Some("/nowhere/my.toml".into()), data_dir: None };
        assert!(matches!(NOTHING.config(&given), Err(Failure::Usage(_))));
        assert_eq!(NOTHING.config(&GlobalArguments::default()), Ok(Config::default()));
    }
}
