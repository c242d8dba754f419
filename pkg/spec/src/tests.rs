//! Tests of whole plans: by golden files, rule by rule, and by properties that always hold.

mod confinement;
mod fixture;
mod golden;
mod properties;
mod rules;
mod selinux;
