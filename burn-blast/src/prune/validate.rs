//! Which settings of a pruning run fit each other.

use super::{BlastConfig, BlastError, Budget, Growth, KeepRule, Schedule, Score, Structure};

impl BlastConfig {
    /// Checks every number.
    ///
    /// # Errors
    /// The first one out of range, with what is allowed.
    pub fn validate(&self) -> Result<(), BlastError> {
        let share = |value: f64| (0.0..=1.0).contains(&value);
        let sparsity = |value: f64| (0.0..1.0).contains(&value);
        check(self.total_steps > 0, "total_steps", self.total_steps, "at least 1")?;
        check(self.interval > 0, "interval", self.interval, "at least 1")?;
        check(self.start_step != Some(0), "start_step", 0, "at least 1")?;
        check(sparsity(self.sparsity), "sparsity", self.sparsity, "at least 0 and below 1")?;
        check(share(self.end_fraction), "end_fraction", self.end_fraction, "between 0 and 1")?;
        check(
            self.last_update() <= self.total_steps,
            "total_steps",
            self.total_steps,
            "at least the step of the first update (start_step, or interval if there is none)",
        )?;
        let growth_fraction = share(self.growth_fraction);
        check(growth_fraction, "growth_fraction", self.growth_fraction, "between 0 and 1")?;
        check(
            (0.0..=1.0).contains(&self.lr_exponent),
            "lr_exponent",
            self.lr_exponent,
            "between 0 and 1",
        )?;
        check(
            sparsity(self.score_decay),
            "score_decay",
            self.score_decay,
            "at least 0 and below 1",
        )?;
        check(
            self.score_decay == 0.0 || matches!(self.score, Score::Saliency | Score::Taylor),
            "score_decay",
            self.score_decay,
            "0, except with Score::Saliency or Score::Taylor: the others are no scores of one step",
        )?;
        for rule in &self.layers {
            check(
                sparsity(rule.sparsity),
                "layers.sparsity",
                rule.sparsity,
                "at least 0 and below 1",
            )?;
        }
        if let Schedule::Cyclic { cycles } = self.schedule {
            check(cycles > 0, "schedule.cycles", cycles, "at least 1")?;
            check(
                self.growth != Growth::None,
                "growth",
                format!("{:?}", self.growth),
                "Gradient or Random with a cyclic schedule, which brings blocks back",
            )?;
        }
        check(
            self.keep == KeepRule::Exact || self.growth == Growth::Gradient,
            "keep",
            format!("{:?}", self.keep),
            "Exact without growth by gradient: a union needs both rankings",
        )?;
        self.validate_structure()?;
        match self.budget {
            Budget::Global { min_density, max_density } => {
                self.validate_global(min_density, max_density)
            }
            Budget::Uniform | Budget::ErdosRenyi => Ok(()),
        }
    }

    fn validate_structure(&self) -> Result<(), BlastError> {
        check(
            self.group_density == 1.0 || self.structure == Structure::Coupled,
            "group_density",
            self.group_density,
            "1, except with Structure::Coupled",
        )?;
        if self.structure == Structure::Blocks {
            let found = format!("{:?}", self.couplings);
            let expected = "empty with Structure::Blocks";
            return check(self.couplings.is_empty(), "couplings", found, expected);
        }
        let most = match self.budget {
            Budget::Global { max_density, .. } => max_density,
            Budget::Uniform | Budget::ErdosRenyi => 1.0 - self.sparsity,
        };
        if self.group_density > 1.0 || self.exceeds_groups(most) {
            return Err(self.too_few_groups());
        }
        check(
            self.keep == KeepRule::Exact,
            "keep",
            format!("{:?}", self.keep),
            "Exact where coupled layers select their blocks together",
        )?;
        self.validate_ahead([
            "empty where coupled layers select their blocks together",
            "one that never brings blocks back where coupled layers select their blocks together",
            "at least 4 where coupled layers select their blocks together, three steps ahead",
        ])
    }

    fn validate_global(&self, min_density: f64, max_density: f64) -> Result<(), BlastError> {
        let density = 1.0 - self.sparsity;
        check(
            min_density >= 0.0 && min_density <= density && density <= max_density,
            "budget",
            format!("{:?}", self.budget),
            "min_density <= 1 - sparsity <= max_density, with min_density at least 0",
        )?;
        self.validate_ahead([
            "empty with a global budget, which gives every layer a share of its own",
            "one that never brings blocks back with a global budget, which ranks kept blocks only",
            "at least 4 with a global budget, which gathers all layers' scores three steps ahead",
        ])
    }

    /// Checks what layers need that gather their rankings ahead of an update; what each setting must be then.
    fn validate_ahead(
        &self,
        [tied, schedule, interval]: [&'static str; 3],
    ) -> Result<(), BlastError> {
        check(self.tied.is_empty(), "tied", format!("{:?}", self.tied), tied)?;
        let is_cyclic = matches!(self.schedule, Schedule::Cyclic { .. });
        check(!is_cyclic, "schedule", format!("{:?}", self.schedule), schedule)?;
        let fits = self.interval >= 4 && self.first_update() >= 4;
        check(fits, "interval", self.interval, interval)
    }
}

fn check(
    fine: bool,
    name: &'static str,
    found: impl ToString,
    expected: &'static str,
) -> Result<(), BlastError> {
    match fine {
        true => Ok(()),
        false => Err(BlastError::Config { name, found: found.to_string(), expected }),
    }
}
