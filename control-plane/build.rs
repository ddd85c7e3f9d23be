//! Enters: the migrations folder. Leaves: a new build when a file appears in it; `sqlx::migrate!` sees only changes of those it knew.

fn main() {
    println!("cargo:rerun-if-changed=../migrations");
}
