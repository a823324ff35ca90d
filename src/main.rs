fn main() -> std::process::ExitCode {
    farside::cli::main()
}
